"""Keeps in float32 what a model of transformers keeps in it when loaded in 16 bits: its rotary frequencies above all.

Used where frozen parts are cast: by ``base.py`` for encoders, by ``MultimodalLM`` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HALF = (torch.bfloat16, torch.float16)


@contextmanager
def float32_buffers(*parts: nn.Module) -> Iterator[None]:
    """Bring back to float32, with their values, computed buffers that are cast to 16 bits while this is open.

    Which ones, the model's own class says: those that it makes in float32 also where it is loaded in 16 bits. In
    bfloat16 a rotary frequency is known to 3 digits, so after 4,096 tokens an angle is off by whole radians. Models of
    other libraries are left as they are cast: some of timm's buffers are biases, which must follow the weights.
    """
    models = [model for part in parts for model in _models(part)]
    kept = [(model, _computed(model)) for model in models]
    with ExitStack() as away:
        for model in models:
            away.enter_context(_complex_away(model))
        yield
    for model, before in kept:
        now = dict(model.named_buffers(remove_duplicate=False))
        cast = [name for name in before if now[name].dtype in HALF]
        own = _own_dtypes(model, now[cast[0]].dtype) if cast else {}
        for name in cast:
            # a connector inside may have put in one that the model's class knows nothing of
            if own.get(name) == torch.float32:
                path, _, last = name.rpartition(".")
                setattr(model.get_submodule(path), last, before[name].to(now[name].device))


@contextmanager
def _complex_away(model: nn.Module) -> Iterator[None]:
    """Take complex buffers out while this is open, and bring them to where the weights are: a cast to a real dtype
    would leave them half of what they are (Llama 4's rotation of patches)."""
    found = [
        (module, name, value)
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None and value.is_complex()
    ]
    for module, name, _ in found:
        module._buffers[name] = None
    try:
        yield
    finally:
        device = next((weight.device for weight in model.parameters()), None)
        for module, name, value in found:
            module._buffers[name] = value.to(device)


def _models(part: nn.Module) -> list[PreTrainedModel]:
    """The models of transformers in a part, without those inside another."""
    # here: a part of another library starts without transformers
    from transformers import PreTrainedModel

    found: list[PreTrainedModel] = []
    inner: set[nn.Module] = set()
    for module in part.modules():
        if isinstance(module, PreTrainedModel) and module not in inner:
            found.append(module)
            inner |= set(module.modules())
    return found


def _computed(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers in float32 that a checkpoint does not hold."""
    stored = model.state_dict(keep_vars=True).keys()
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: value for name, value in buffers if value.dtype == torch.float32 and name not in stored}


def _own_dtypes(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Name of each buffer -> its dtype where this model is made for ``dtype``, as ``from_pretrained`` makes it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):  # without memory and without numbers
            made = type(model)(deepcopy(model.config))
    finally:
        torch.set_default_dtype(before)
    return {name: value.dtype for name, value in made.named_buffers(remove_duplicate=False)}
