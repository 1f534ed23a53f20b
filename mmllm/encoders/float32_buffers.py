"""Keeps in float32 what a frozen model computes in it whatever its weights are in: rotary frequencies above all.

Used where frozen parts are cast: by ``base.py`` for encoders, by ``MultimodalLM`` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)


@contextmanager
def float32_buffers(*parts: nn.Module) -> Iterator[None]:
    """Bring back to float32, with their values, the computed buffers that are cast to 16 bits while this is open.

    Those are the buffers that a checkpoint does not hold (not persistent): transformers computes them in float32 when
    it loads a model in 16 bits. In bfloat16 a rotary frequency is known to 3 digits, so after 4,096 tokens an angle is
    off by whole radians.
    """
    kept = []
    for part in parts:
        stored = part.state_dict(keep_vars=True).keys()
        for name, buffer in part.named_buffers(remove_duplicate=False):
            if buffer.dtype == torch.float32 and name not in stored:
                kept.append((part, name, buffer))
    yield
    for part, name, buffer in kept:
        path, _, own = name.rpartition(".")
        module = part.get_submodule(path)
        now: torch.Tensor = getattr(module, own)
        if now.dtype in HALF:
            setattr(module, own, buffer.to(now.device))
