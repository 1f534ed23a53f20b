"""Position ids of one conversation: a pure function of its length and of where its media lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmllm.types import SEQUENTIAL, PositionScheme

if TYPE_CHECKING:
    from mmllm.batches.sample import MediaSpan


def positions(spans: Sequence[MediaSpan], length: int, scheme: PositionScheme = SEQUENTIAL) -> torch.Tensor:
    """int64[P, length]: position ids on each of the P axes of ``scheme``; ``spans`` are where media lie, in order."""
    if scheme.name == "sequential":
        return torch.arange(length)[None]
    return _three_axes(spans, length, scheme)


def _three_axes(spans: Sequence[MediaSpan], length: int, scheme: PositionScheme) -> torch.Tensor:
    """int64[3, length], for M-RoPE (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191): time, rows, columns.

    Text counts alike on all axes. A picture or clip that begins at position s has s + row and s + column, and on the
    axis of time s + step, or s + the whole part of its time in positions of ``scheme.per_second``; text goes on at s +
    the larger of rows and columns. Media of other grids (sounds, graphs) count as text does.
    """
    parts = []
    done = now = 0
    for span in spans:
        if len(span.grid) not in (2, 3):
            continue
        steps, rows, cols = (1, *span.grid)[-3:]
        parts.append(_alike(now, span.start - done))
        now += span.start - done
        times = _times(steps, span.interval, scheme)
        axes = torch.meshgrid(times, torch.arange(rows), torch.arange(cols), indexing="ij")
        parts.append(now + torch.stack(axes).flatten(1))
        now += max(rows, cols) if span.length else 0
        done = span.start + span.length
    parts.append(_alike(now, length - done))
    return torch.cat(parts, dim=1)


def _times(steps: int, interval: float | None, scheme: PositionScheme) -> torch.Tensor:
    """int64[steps], from 0 on."""
    if scheme.per_second is None or interval is None:
        return torch.arange(steps)
    # in float32, as the models count: what ends up just below a whole number is cut off
    return (torch.arange(steps) * (scheme.per_second * torch.tensor(interval))).long()


def _alike(start: int, length: int) -> torch.Tensor:
    """int64[3, length]: the same numbers on all axes."""
    return torch.arange(start, start + length).expand(3, -1)
