"""Constraints of an answer: which tokens may come next. ``answers.Request`` asks one at each step."""

from __future__ import annotations

from typing import Protocol

import torch

from mmllm.errors import MmllmError


class ConstraintError(MmllmError):
    """A constraint that cannot be followed: the schema is malformed, not supported or too complex."""


class Constraint(Protocol):
    """What one answer may say. It moves on with the answer, so each request has its own."""

    over: bool
    """Whether the answer is complete: nothing may follow."""

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits float[V] with -inf for every token that may not come next."""
        ...

    def take(self, token: int) -> None:
        """Note the token that was chosen."""
        ...
