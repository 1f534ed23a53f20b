"""Point clouds brought to one size and order; their processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmllm.errors import MediaError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.point_files import MAX_BYTES, MAX_POINTS, read_points
from mmllm.processors.point_sampling import farthest_first, filled_up, on_unit_sphere

FIXED_POINT = 32767
"""Coordinates of -1..1 travel as int16: a loader's floats would be cast to an encoder's bfloat16, 8 bits of them."""


class PointsProcessor(Processor):
    """``points`` points of every cloud on the unit sphere, farthest first; ``tokens`` tokens each.

    Large clouds are thinned to four times ``points`` at random (``seed``), smaller ones filled up by repetition.
    """

    modality = "points"

    def __init__(
        self, *, points: int, tokens: int, seed: int = 0, max_points: int = MAX_POINTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.points, self.tokens, self.seed = points, tokens, seed
        self.max_points, self.max_bytes = max_points, max_bytes

    def read(self, media: str | Path | bytes | np.ndarray | Tensor) -> Item:
        """Read one cloud -> ``{"points": int16[P, 3]}``, farthest first, 32767 = 1; raises ``MediaError``."""
        cloud = read_points(media, 4 * self.points, self.seed, self.max_points, self.max_bytes)
        if len(cloud) > 4 * self.points:
            generator = torch.Generator().manual_seed(self.seed)
            cloud = cloud[torch.randperm(len(cloud), generator=generator)[: 4 * self.points]]
        cloud = on_unit_sphere(filled_up(cloud, self.points))
        if not torch.isfinite(cloud).all():
            raise MediaError("the points are too far from each other to be brought to one scale")
        chosen = self._chosen(cloud)
        return {"points": (chosen * FIXED_POINT).round().to(torch.int16)}

    def _chosen(self, cloud: Tensor) -> Tensor:
        """float[P, 3], farthest first; of a cloud that has no more points only the first half needs to be in order."""
        if len(cloud) > self.points or self.points == self.tokens:
            return cloud[farthest_first(cloud, self.points)]
        first = farthest_first(cloud, self.points // 2)
        rest = torch.ones(len(cloud), dtype=torch.bool).index_fill(0, first, False)
        return torch.cat([cloud[first], cloud[rest]])

    def content(self, media: Any) -> Content | None:
        """The file, or the numbers of an array."""
        if not isinstance(media, np.ndarray | Tensor):
            return of_file(media)
        array = np.ascontiguousarray(np.asarray(media))
        return Content(data=array.tobytes(), words=f"{array.dtype.str} {array.shape}")

    def measure(self, media: Any) -> ItemInfo:
        """Nothing needs to be known: every cloud has as many tokens."""
        return {}

    def grid(self, info: ItemInfo) -> tuple[int]:
        """(tokens,)."""
        return (self.tokens,)

    def fixed_grid(self) -> tuple[int]:
        """Every cloud has as many tokens."""
        return (self.tokens,)

    def blank(self) -> Item:
        """All points at one place."""
        return {"points": torch.zeros(self.points, 3, dtype=torch.int16)}
