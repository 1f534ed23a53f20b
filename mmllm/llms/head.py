"""The part of a causal LM after its last block, as a module of its own, so that it runs at label positions only.

The model's own ``forward`` is used for it: a shallow copy of the model whose decoder just hands back what it is given.
So bias, logit scale and soft-cap are the model's, whatever its family, and no list of families is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class _Echoed(BaseModelOutputWithPastAndCrossAttentions):
    """Output of a decoder that has no router logits or whatever else a family reads from it: those are None."""

    def __getattr__(self, name: str) -> None:
        # copying and pickling ask for optional methods of such names and must be told that there are none
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class _Echo(nn.Module):
    """Stands where the decoder stood: its last hidden state is its input."""

    def forward(self, *args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> _Echoed:
        return _Echoed(last_hidden_state=inputs_embeds)


def head_of(
    model: PreTrainedModel, decoder: nn.Module, output: Callable[[nn.Module], nn.Module] | None = None
) -> PreTrainedModel:
    """A copy of ``model`` that shares every module and tensor with it, but for the decoder, which echoes.

    ``head_of(model, decoder)(inputs_embeds=hidden).logits`` are the logits of ``hidden`` float[N, T, D]. The copy must
    not be registered as a submodule of anything: its tensors already belong to ``model``. ``output``: what stands in
    the copy for the model's output embeddings, made of them.
    """
    head: PreTrainedModel = shallow(model)
    _put(head, _path(model, decoder), _Echo())
    if output is not None:
        own = model.get_output_embeddings()
        _put(head, _path(model, own), output(own))
    return head


def _path(model: nn.Module, wanted: nn.Module) -> list[str]:
    return next(name for name, module in model.named_modules() if module is wanted).split(".")


def _put(root: nn.Module, path: list[str], module: nn.Module) -> None:
    """Give ``root``, a copy, another module below it; what lies between is copied."""
    for name in path[:-1]:
        child = shallow(root._modules[name])
        root._modules[name] = child
        root = child
    root._modules[path[-1]] = module


def shallow(module: nn.Module | None) -> Any:
    """Copy that shares parameters, buffers and children, but can be given other children."""
    clone = copy.copy(module)
    assert clone is not None and module is not None
    # private in torch (read in 2.15): nn.Module has no public way to share tensors under other children
    clone.__dict__["_modules"] = dict(module._modules)
    # hooks stay with the original: DeepSpeed's ZeRO-3 would meet a module there that it never numbered
    clone.__dict__.update({key: value for key, value in vars(nn.Module()).items() if key.endswith("_hooks")})
    return clone
