"""Whether a model is still what it was: what was kept of its passes is worth nothing after a change."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM


def weights_state(model: MultimodalLM) -> Hashable:
    """Something that differs once a weight, hook or part of the model was changed; no tensor is read."""
    weights: list[int] = []
    modules: list[int] = []
    waiting: list[nn.Module] = [model]
    for one in waiting:
        # private in torch (read in 2.15): there is no public way to ask which hooks a module has, and walking
        # `parameters()` takes as long as a token does
        found = one.__dict__
        modules += (id(one), len(found["_forward_hooks"]) + len(found["_forward_pre_hooks"]) + ("forward" in found))
        if found["_parameters"]:
            weights += _states(found["_parameters"].values())
        waiting += [module for module in found["_modules"].values() if module is not None]
    weights += _states(model.connectors.buffers())
    extensions = [len(one) for one in model.llm._extensions.values()]
    return tuple(weights), tuple(modules), tuple(extensions), len(model.llm._logit_changes)


def _states(tensors: Iterable[Tensor | None]) -> list[int]:
    """Identity of each, and how often it was changed in place."""
    found = []
    for tensor in tensors:
        if tensor is not None:
            # one made in inference mode does not count, and is changed there only
            found += [id(tensor), -1 if tensor.is_inference() else tensor._version]
    return found
