"""Masks that encoders give with their features, made of numbers that the host knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def real_tokens(lengths: Sequence[int], device: torch.device | str, most: int | None = None) -> Tensor:
    """bool[N, most], True at the first so many tokens of each of N items; ``most``: default the longest.

    Made on the CPU: nobody waits for the device.
    """
    real = torch.arange(max(lengths) if most is None else most) < torch.tensor(lengths)[:, None]
    return real.to(device, non_blocking=True)
