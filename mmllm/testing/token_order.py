"""Which tokens change when a patch does, and whether their places in the grid of tokens follow the patch's place."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from mmllm.testing.rules import require
from mmllm.types import Grid, time_steps

SEEN = 1e-4
"""Share of the largest change above which a token counts as changed: below it is rounding of float32."""


def keeps_raster_order(moved: Tensor, grid: Grid, out_grid: Grid) -> None:
    """Require that, along each axis where tokens are of regions, later patches change later tokens.

    Args:
        moved: float[patches, tokens], how far each token moves when one patch is another one.
        grid: of the patches.
        out_grid: of the tokens.
    """
    changed, is_local = _changed(moved), False
    for axis, out_axis in _axes(grid, out_grid):
        touched = _touched(changed, out_grid, out_axis).view(*grid, -1).movedim(axis, 0)
        touched = touched.reshape(grid[axis], -1, out_grid[out_axis])
        # where a patch reaches every place there is no order that could be wrong; lines of patches: [places, lines, :]
        local = ~touched.all(dim=-1).all(dim=0)
        is_local = is_local or bool(local.any())
        places = torch.arange(out_grid[out_axis])
        first = torch.where(touched, places, len(places)).amin(dim=-1)
        last = torch.where(touched, places, -1).amax(dim=-1)
        forward = (first.diff(dim=0) >= 0).all(dim=0) & (last.diff(dim=0) >= 0).all(dim=0)
        moves = (first[-1] > first[0]) | (last[-1] > last[0])
        wrong = (local & ~(forward & moves)).nonzero().flatten().tolist()
        found = [list(zip(first[:, line].tolist(), last[:, line].tolist(), strict=True)) for line in wrong[:1]]
        require(
            not wrong,
            f"along axis {axis} of the patches {grid}, the tokens that a patch changes lie at these places of axis "
            f"{out_axis} of {out_grid}: {found} (first and last, patch after patch)",
        )
    if is_local:
        _in_regions(changed, out_grid)


def keeps_its_time(moved: Tensor, grid: Grid, out_grid: Grid) -> None:
    """Require that tokens that tell the first frame from the last one have a time axis, see :func:`keeps_raster_order`.

    ``grid``: (time, ...).
    """
    frames = _changed(moved).view(grid[0], -1, prod(out_grid)).any(dim=1)
    if grid[0] == 1 or torch.equal(frames[0], frames[-1]):
        return
    first, last = (frame.nonzero().flatten().tolist() for frame in (frames[0], frames[-1]))
    require(
        time_steps(out_grid) > 1,
        f"of a clip of {grid[0]} frames, the first changes tokens {first} and the last {last}, but out_grid{grid} = "
        f"{out_grid} has one step in time",
    )


def _changed(moved: Tensor) -> Tensor:
    """bool[patches, tokens]."""
    return moved > SEEN * moved.max()


def _touched(changed: Tensor, out_grid: Grid, axis: int) -> Tensor:
    """bool[patches, places]: at which places of an axis a patch changes a token."""
    others = [1 + other for other in range(len(out_grid)) if other != axis]
    shaped = changed.view(-1, *out_grid)
    return shaped.any(dim=tuple(others)) if others else shaped


def _axes(grid: Grid, out_grid: Grid) -> list[tuple[int, int]]:
    """(axis of the patches, axis of the tokens) of one direction in time or space, where both are longer than 1."""
    if len(grid) == 2 and out_grid[0] == 1 and len(out_grid) == 2 and grid[0] > 1:
        return []  # tokens in a row of their own
    by_lengths = {
        (1, 1): [(0, 0)], (1, 3): [(0, 0)], (2, 2): [(0, 0), (1, 1)], (2, 3): [(0, 1), (1, 2)],
        (3, 1): [(0, 0)], (3, 2): [(1, 0), (2, 1)], (3, 3): [(0, 0), (1, 1), (2, 2)],
    }  # fmt: skip
    pairs = by_lengths.get((len(grid), len(out_grid)), [])
    return [(axis, out_axis) for axis, out_axis in pairs if grid[axis] > 1 and out_grid[out_axis] > 1]


def _in_regions(changed: Tensor, out_grid: Grid) -> None:
    """Require that the tokens that a patch changes fill a box of the grid, or follow each other without a gap."""
    for patch, tokens in enumerate(changed):
        places = tokens.nonzero().flatten()
        if not len(places):
            continue
        corners = tokens.view(out_grid).nonzero()
        box = int((corners.amax(dim=0) - corners.amin(dim=0) + 1).prod())
        run = int(places[-1] - places[0] + 1)
        require(
            len(places) in (box, run) or box == tokens.numel(),
            f"patch {patch} changes tokens {places.tolist()}, which are no region of {out_grid}",
        )
