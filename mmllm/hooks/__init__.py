"""How connectors work inside frozen models: changes on instances, each undone by its handle."""

from mmllm.hooks.handles import (
    Around,
    Change,
    ChangeOutput,
    Handle,
    Switch,
    after,
    all_of,
    around,
    before,
    checkpointed,
    copied,
    first_input,
    recomputed,
    replace,
    with_first_input,
)

__all__ = [
    "Around",
    "Change",
    "ChangeOutput",
    "Handle",
    "Switch",
    "after",
    "all_of",
    "around",
    "before",
    "checkpointed",
    "copied",
    "first_input",
    "recomputed",
    "replace",
    "with_first_input",
]
