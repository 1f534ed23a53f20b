"""Virtual projections of Any2Point: where 3-D tokens would lie on the source's line of words or plane of patches."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

EDGE = 1e-6  # spread below which all tokens lie at one place of an axis


@dataclass(frozen=True)
class Views:
    """Views of one batch of clouds, as the blocks need them."""

    positions: Tensor
    """float[N, T, D]: the source's positional embeddings, interpolated at each token's place, mean over the views."""
    together: Tensor
    """bool[N, M, T, T]: whether two tokens fall into the same group of view m."""
    near: Tensor
    """bool[N, 1, T, T]: whether they fall into the same voxel."""
    groups: Tensor
    """int64[N, M, T]: number of each token's group in view m, below ``n_groups``."""
    n_groups: int
    """Groups that the source's positions make, with those that hold no token."""
    voxels: Tensor
    """int64[N, T, 3]: each token's voxel along the three axes."""


def rotations(views: int) -> Tensor:
    """float[M, 3, 3]: view m is turned by m pi / M about the vertical and then by 2 m pi / M about the x axis."""
    turns = torch.arange(views, dtype=torch.float64) * torch.pi / views
    one, zero = torch.ones_like(turns), torch.zeros_like(turns)
    c, s = turns.cos(), turns.sin()
    upright = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)
    c, s = (2 * turns).cos(), (2 * turns).sin()
    tilted = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], dim=1).reshape(-1, 3, 3)
    return (tilted @ upright).float()


def projected(centres: Tensor, turns: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Places on the source's axes: centres float[N, T, 3] -> float[N, M, T, axes], each in 0..size - 1.

    The range is each item's own, its minimum is subtracted, and the farthest token comes to the last position: in the
    authors' code a batch-wide range without the minimum, and a remainder, bring other items' sizes in and the farthest
    token back to position 0.
    """
    turned = torch.einsum("mij,ntj->nmti", turns.to(centres), centres)[..., : len(sizes)]
    low, high = turned.amin(dim=2, keepdim=True), turned.amax(dim=2, keepdim=True)
    scaled = (turned - low) / (high - low).clamp_min(EDGE)
    return scaled.clamp(0, 1) * (torch.tensor(sizes, device=centres.device) - 1)


def interpolated(table: Tensor, places: Tensor) -> Tensor:
    """Linear (1 axis) or bilinear (2 axes) interpolation: table float[L, D] | [R, C, D], places float[..., axes].

    The weights of the two neighbours on an axis are (1 - fraction, fraction), so they add up to 1 also at whole
    numbers; (ceil - q, q - floor), as in the authors' code, would both be 0 there.
    """
    sizes = table.shape[:-1]
    flat = table.reshape(-1, table.shape[-1])
    low = [places[..., axis].floor().clamp(0, size - 1).long() for axis, size in enumerate(sizes)]
    high = [(one + 1).clamp(max=size - 1) for one, size in zip(low, sizes, strict=True)]
    part = [places[..., axis] - one for axis, one in enumerate(low)]
    if len(sizes) == 1:
        return flat[low[0]] * (1 - part[0])[..., None] + flat[high[0]] * part[0][..., None]
    found = torch.zeros(*places.shape[:-1], table.shape[-1], dtype=table.dtype, device=table.device)
    for rows, weight in ((low[0], 1 - part[0]), (high[0], part[0])):
        for cols, other in ((low[1], 1 - part[1]), (high[1], part[1])):
            found = found + flat[rows * sizes[1] + cols] * (weight * other)[..., None]
    return found


def group_numbers(places: Tensor, span: int, sizes: tuple[int, ...]) -> tuple[Tensor, int]:
    """Group of each token, places float[N, M, T, axes] -> int64[N, M, T], and how many there are.

    Groups are ``span`` positions on each axis of the source, which has ``sizes`` positions.
    """
    counts = [-(-size // span) for size in sizes]
    numbers = (places / span).floor().long()
    flat = numbers[..., 0]
    for axis, count in enumerate(counts[1:], start=1):
        flat = flat * count + numbers[..., axis]
    return flat, prod(counts)


def voxel_numbers(centres: Tensor, cells: int, size: float | None = None) -> Tensor:
    """Voxel of each token: centres float[N, T, 3] in -1..1 -> int64[N, T, 3].

    ``cells`` along each axis; or of edge ``size`` from each item's smallest coordinates on.
    """
    if size is not None:
        return ((centres - centres.amin(dim=1, keepdim=True)) / size).floor().long()
    return ((centres + 1) / 2 * cells).floor().clamp(0, cells - 1).long()


def same(numbers: Tensor) -> Tensor:
    """Whether two tokens have the same numbers: int64[..., T, axes] -> bool[..., T, T]."""
    return (numbers[..., :, None, :] == numbers[..., None, :, :]).all(dim=-1)


def views_of(centres: Tensor, table: Tensor, turns: Tensor, span: int, cells: int, voxel: float | None = None) -> Views:
    """Everything a batch of centres float[N, T, 3] needs for a table of source positions."""
    sizes = tuple(table.shape[:-1])
    places = projected(centres, turns, sizes)
    groups, n_groups = group_numbers(places, span, sizes)
    voxels = voxel_numbers(centres, cells, voxel)
    return Views(
        positions=interpolated(table, places).mean(dim=1),
        together=same(groups[..., None]),
        near=same(voxels)[:, None],
        groups=groups,
        n_groups=n_groups,
        voxels=voxels,
    )
