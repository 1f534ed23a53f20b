"""The ``concat`` connector: two or more encoders see the same item, their features come together on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Projector, SeveralEncoders
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.encoder_layers import normed
from mmllm.connectors.layers.resampled import resampled
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

METHODS = ("bilinear", "bicubic", "area")
JOINS = ("channels", "add", "interleave")


class ConcatConnector(SeveralEncoders, Projector):
    """Channel concatenation of several encoders, then an MLP: DINOv2 + SigLIP in Prismatic VLMs (arXiv 2402.07865).

    All layers of the first encoder, then all of the second and so on, on the width; ``depth`` linear layers, GELU
    between. Where their grids differ, features are first resampled to one, that of the first encoder or ``grid``
    [rows, cols] ([time] for sound), as in Cambrian-1 (arXiv 2406.16860): ``resample`` bilinear or bicubic between patch
    centres, or area, the mean of the patches that a cell covers. Frames or tiles in front of rows and columns stay as
    they are, so every encoder must give as many.

    ``join`` says how sides come together: ``channels``, as above; ``add`` gives each encoder an MLP of its own and sums
    their tokens (with ``depth: 1`` the same as channels); ``interleave`` also gives each its own, and puts the tokens
    of a place one behind the other, in the encoders' order (I-MoF, Tong et al. 2024, arXiv 2401.06209): a row is then
    as many times longer.

    ``norm`` first brings each layer of each encoder to mean 0 and variance 1 per token, as their sizes differ much.
    Nothing learns there: a weight and bias of the norm would only be another factor of the first linear layer.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        grid: Sequence[int] | None = None,
        resample: Literal["bilinear", "bicubic", "area"] = "bilinear",
        depth: int = 2,
        norm: bool = False,
        join: Literal["channels", "add", "interleave"] = "channels",
        dims: Sequence[int] | None = None,
    ) -> None:
        """Set up.

        Args:
            dim: width of all layers of all encoders side by side.
            llm_dim: width of the LLM.
            grid: rows and columns (or time) to resample to; None: those of the first encoder.
            resample: how, where a grid is another one.
            depth: linear layers of the MLP.
            norm: whether to norm each layer first; see above.
            join: channels, add or interleave; see above.
            dims: width of all layers of each encoder; None: there is one.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if grid is not None and (len(grid) not in (1, 2) or min(grid) < 1):
            raise MmllmError(f"connector concat grid: {list(grid)} must be [rows, cols] or [time], all at least 1.")
        if resample not in METHODS:
            raise MmllmError(f"connector concat resample: {resample!r} is unknown; known: {', '.join(METHODS)}.")
        self.grid = None if grid is None else tuple(grid)
        self.resample, self.norm = resample, norm
        if join not in JOINS:
            raise MmllmError(f"connector concat join: {join!r} is unknown; known: {', '.join(JOINS)}.")
        self.join = join
        # under one name for one MLP, so that weights of runs before there was a choice fit
        if join == "channels":
            self.mlp = mlp(dim, llm_dim, depth)
        else:
            self.mlps = nn.ModuleList(mlp(one, llm_dim, depth) for one in dims or (dim,))

    def out_grid(self, *grids: Sequence[int]) -> Grid:
        """Grid that all encoders are brought to.

        Raises:
            MmllmError: more than rows and columns (or time) differ, or ``grid`` is of other axes.
        """
        if len({_front(grid) for grid in grids}) > 1 or len({len(grid) for grid in grids}) > 1:
            given = " and ".join(str(list(grid)) for grid in grids)
            raise MmllmError(
                f"connector concat can resample rows and columns only, but its encoders' grids are {given}; give them "
                "the same frames."
            )
        longer = len(grids) if self.join == "interleave" else 1
        plane = self._plane(grids)
        return (*plane[:-1], plane[-1] * longer)

    def _plane(self, grids: Sequence[Sequence[int]]) -> Grid:
        """Grid on which the encoders' features are joined."""
        if self.grid is None:
            return tuple(grids[0])
        if len(self.grid) != min(2, len(grids[0])):
            raise MmllmError(
                f"connector concat grid: {list(self.grid)} does not fit its encoders' grid of {list(grids[0])}; give "
                "[rows, cols], or [time] where there is nothing but time."
            )
        return (*_front(grids[0]), *self.grid)

    def forward(self, *features: Features) -> Tensor:
        """Join features float[N, T of each, D of each] of the encoders, in their order: float[N, n_tokens, llm_dim]."""
        grids = [one.grid for one in features]
        self.out_grid(*grids)  # refuses what does not fit
        grid = self._plane(grids)
        sides = [self._resampled(normed(one) if self.norm else one, grid) for one in features]
        if self.join == "channels":
            return self.mlp(torch.cat(sides, dim=-1))
        tokens = torch.stack([layers(side) for layers, side in zip(self.mlps, sides, strict=True)], dim=2)
        return tokens.sum(dim=2) if self.join == "add" else tokens.flatten(1, 2)

    def _resampled(self, features: Features, grid: Grid) -> Tensor:
        """All layers of one encoder on ``grid``: float[N, prod(grid), D]."""
        return resampled(features.concatenated(), features.grid, grid, self.resample)


def _front(grid: Sequence[int]) -> tuple[int, ...]:
    """Axes in front of rows and columns."""
    return tuple(grid[:-2])
