"""Connectors inside frozen models: changes on instances, each undone by its handle, each given the pass's context."""

from mmllm.hooks.context import EncoderContext, ForwardContext, TokenLayout
from mmllm.hooks.handles import (
    Around,
    Change,
    ChangeOutput,
    Handle,
    after,
    before,
    checkpointed,
    copied,
    first_input,
    recomputed,
    replace,
    with_first_input,
    wrap_forward,
)
from mmllm.hooks.scope import Scope

__all__ = [
    "Around",
    "Change",
    "ChangeOutput",
    "EncoderContext",
    "ForwardContext",
    "Handle",
    "Scope",
    "TokenLayout",
    "after",
    "before",
    "checkpointed",
    "copied",
    "first_input",
    "recomputed",
    "replace",
    "with_first_input",
    "wrap_forward",
]
