"""Constraints of an answer: which tokens may come next. ``answers.Request`` asks one at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class Constraint(Protocol):
    """What one answer may say. It moves on with the answer, so each request has its own."""

    over: bool
    """Whether the answer is complete: nothing may follow."""

    def allowed(self) -> np.ndarray:
        """Return which tokens may come next: uint8[V / 8, rounded up], a bit for each, the lowest first."""
        ...

    def take(self, token: int) -> None:
        """Note the token that was chosen."""
        ...


def masked(logits: torch.Tensor, allowed: Sequence[np.ndarray]) -> torch.Tensor:
    """Return logits float[n, V] with -inf for every token that the constraint of its row does not allow."""
    # for all rows at once: done one by one it would cost more than the grammars do
    bits = np.unpackbits(np.stack(allowed), axis=1, count=logits.shape[-1], bitorder="little")
    return logits.masked_fill(torch.from_numpy(bits == 0).to(logits.device), -torch.inf)
