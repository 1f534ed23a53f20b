"""Maps of features brought to another grid, so that those of several encoders lie on one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def resampled(x: Tensor, grid: Sequence[int], wanted: Sequence[int], how: str = "bilinear") -> Tensor:
    """Features float[N, prod(grid), D] on the grid ``wanted``: float[N, prod(wanted), D].

    Rows and columns, or time where there is nothing else, are resampled; frames or tiles in front stay. ``how``:
    bilinear or bicubic between the centres of patches, or area, the mean of the patches that a cell covers.
    """
    if tuple(grid) == tuple(wanted):
        return x
    maps = x.reshape(-1, *_plane(grid), x.shape[-1]).movedim(-1, 1)
    corners = None if how == "area" else False  # patches have areas: their centres are matched
    # in float32, as in Cambrian-1's code: in bfloat16 the sum over patches would be rounded
    found = functional.interpolate(maps.float(), _plane(wanted), mode=how, align_corners=corners)
    return found.to(x.dtype).flatten(2).transpose(1, 2).reshape(len(x), -1, x.shape[-1])


def _plane(grid: Sequence[int]) -> tuple[int, int]:
    """Plane (rows, cols) that is resampled; what has no space is one row, where bilinear is linear in time."""
    return (1, grid[0]) if len(grid) == 1 else (grid[-2], grid[-1])
