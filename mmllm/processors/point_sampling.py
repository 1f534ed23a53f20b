"""Geometry of point clouds in plain torch on the CPU: unit sphere, farthest points first, nearest neighbours.

Used by ``point_files`` and ``points``; connectors that work on clouds have their own kNN over batches.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmllm.errors import MmllmError


def on_unit_sphere(points: Tensor) -> Tensor:
    """float[P, 3] -> the same moved to its mean and scaled so that the farthest point has length 1; float64.

    Points that all lie at one place become zeros.
    """
    points = points.double()
    size = points.abs().max()
    if size > 0:
        points = points / size  # squares of huge coordinates would overflow
    points = points - points.mean(dim=0)
    radius = points.norm(dim=1).max()
    # after the division by size a smaller radius is rounding alone
    return points / radius if radius > 1e-12 else torch.zeros_like(points)


def farthest_first(points: Tensor, n: int) -> Tensor:
    """Indices int64[n] by farthest point sampling: each next one is farthest from all chosen before it.

    ``points`` float[P, 3]. The first is the one farthest from the mean, so the order of the file does not matter; of
    equally far ones (duplicates too) the first in the file. No index comes twice. A beginning of the result is the
    farthest point sampling of that many points, also among the chosen ones alone.

    Raises:
        MmllmError: fewer points than asked for.
    """
    if not 0 < n <= len(points):
        raise MmllmError(f"{n} of {len(points)} points cannot be chosen; ask for 1 to {len(points)}.")
    where = points.double().numpy()
    chosen = np.empty(n, dtype=np.int64)
    chosen[0] = np.square(where - where.mean(axis=0)).sum(axis=1).argmax()
    nearest = np.full(len(where), np.inf)
    for k in range(1, n):
        np.minimum(nearest, np.square(where - where[chosen[k - 1]]).sum(axis=1), out=nearest)
        nearest[chosen[k - 1]] = -1.0
        chosen[k] = nearest.argmax()  # numpy promises the first of equal ones
    return torch.from_numpy(chosen)


def filled_up(points: Tensor, n: int) -> Tensor:
    """At least ``n`` points: a smaller cloud is repeated in its own order, a larger one stays as it is."""
    times = -(-n // len(points))
    return points.repeat(times, 1)[: max(n, len(points))] if times > 1 else points


def on_faces(corners: Tensor, n: int, seed: int) -> Tensor:
    """``n`` points, uniform on the surface of triangles float[F, 3 corners, 3]: float64[n, 3]; the same for a seed.

    Raises:
        MmllmError: the triangles have no area.
    """
    corners = corners.double()
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    total = areas.sum()
    if not (torch.isfinite(total) and total > 0):
        raise MmllmError("its faces have no area, so no points can be drawn on them")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    faces = torch.searchsorted(areas.cumsum(0), drawn[:, 0] * total).clamp(max=len(areas) - 1)
    # the square root makes the points uniform on a triangle: without it they crowd at its first corner
    root = drawn[:, 1].sqrt()
    weights = torch.stack([1 - root, root * (1 - drawn[:, 2]), root * drawn[:, 2]], dim=1)
    return (weights[:, :, None] * corners[faces]).sum(dim=1)
