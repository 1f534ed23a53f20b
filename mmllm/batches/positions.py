"""Position ids of one conversation: a pure function of its length and of where its media lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from mmllm.batches.sample import MediaSpan

Scheme = Literal["sequential"]
"""Rule by which an LLM counts positions. ``sequential``: 0, 1, 2, ... over text and media alike, one axis."""


def positions(spans: Sequence[MediaSpan], length: int, scheme: Scheme = "sequential") -> torch.Tensor:
    """int64[P, length]: position ids on each of the P axes of ``scheme``; ``spans`` are where media lie."""
    if scheme != "sequential":
        raise ValueError(f"position scheme {scheme!r} is unknown; known: sequential")
    return torch.arange(length)[None]
