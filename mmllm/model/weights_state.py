"""Whether a model is still what it was: what was kept of its passes is worth nothing after a change."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM


def weights_state(model: MultimodalLM) -> Hashable:
    """Something that differs once a weight, hook or part of the model was changed; milliseconds, no tensor is read."""
    tensors = [*model.parameters(), *model.connectors.buffers()]
    modules = list(model.modules())
    # a tensor counts the changes in place itself; those made in inference mode cannot be changed outside of it
    weights = tuple((id(one), -1 if one.is_inference() else one._version) for one in tensors)
    # private in torch (read in 2.15): there is no public way to ask which hooks a module has
    hooks = tuple(len(one._forward_hooks) + len(one._forward_pre_hooks) + ("forward" in vars(one)) for one in modules)
    extensions = tuple(len(one) for one in model.llm._extensions.values())
    return weights, tuple(map(id, modules)), hooks, extensions, len(model.llm._logit_changes)
