"""The ``texthawk`` connector: 16 patches become one token in two steps, with positions of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import as_maps, pair
from mmllm.connectors.layers.encoder_layers import listed
from mmllm.connectors.projectors.texthawk.positions import Positions, ScalablePositions, places
from mmllm.connectors.projectors.texthawk.resampling import LearnedQueries, QueryProposals, ResamplingLayer
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

Queries = Literal["proposed", "learned"]
"""``proposed`` from the features of each tile (QPN), or ``learned``, the same for all tiles."""


class TextHawkConnector(Projector):
    """The resampler of TextHawk (Yu et al. 2024, arXiv 2404.09204), after tiles or whole pictures.

    Its four parts, each with a word of its own:

    - **ReSA**: queries, one for each region of ``resample`` [rows, cols] patches, read the patches of their tile in
      ``depth`` layers; then ``rearrange`` [rows, cols] neighbours side by side become one token by a linear map. Of 256
      patches 64 queries and 16 tokens. Resampling alone: ``resample: [4, 4], rearrange: [1, 1]``.
    - **QPN**: ``queries: proposed`` makes them from the features, see
      :class:`~mmllm.connectors.projectors.texthawk.resampling.QueryProposals`. ``learned`` are the same for every tile,
      and belong to one map of patches, ``source_grid`` [rows, cols].
    - **SPE**: ``positions`` of each ``patch`` in the whole picture, of its tile (``cell``) alone, or ``none``; see
      :class:`~mmllm.connectors.projectors.texthawk.positions.ScalablePositions`. Queries have them at the start, keys
      in every layer.
    - **MLCA**: ``levels`` says for each layer which of the encoder's ``layers`` it reads, counted from 0 in their
      order. The paper's, of stages 14, 18, 22 and 26: [3, 3, 3, 2, 2, 2, 1, 0]. Default: all read the only one.

    Queries are proposed from the first layer's level. ``width`` is the encoder's unless given; ``heads`` divide it.
    The paper leaves open where positions are added, and whether queries see each other: here they do not.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        layers: int = 1,
        levels: Sequence[int] | None = None,
        depth: int = 8,
        heads: int = 8,
        width: int | None = None,
        resample: Sequence[int] = (2, 2),
        rearrange: Sequence[int] = (2, 2),
        queries: Literal["proposed", "learned"] = "proposed",
        source_grid: Sequence[int] | None = None,
        positions: Literal["patch", "cell", "none"] = "patch",
    ) -> None:
        """Set up.

        Args:
            dim: width of all layers of the encoder side by side.
            llm_dim: width of the LLM.
            layers: how many layers the encoder's ``layers`` lists.
            levels: which of them each resampling layer reads; see above.
            depth: resampling layers.
            heads: of their attention.
            width: of the queries; None: of one encoder layer.
            resample: rows and columns of patches to a query.
            rearrange: rows and columns of queries to a token.
            queries: proposed or learned.
            source_grid: rows and columns of patches of a tile, for learned queries alone.
            positions: patch, cell or none.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if layers < 1 or dim % layers:
            raise MmllmError(f"connector texthawk layers: {layers} layers cannot make up a width of {dim}.")
        inner = dim // layers if width is None else width
        if heads < 1 or inner < 1 or inner % heads:
            raise MmllmError(f"connector texthawk: heads ({heads}) must divide the width ({inner}).")
        for word, value, known in (("queries", queries, Queries), ("positions", positions, Positions)):
            if value not in get_args(known):
                raise MmllmError(
                    f"connector texthawk {word}: {value!r} is unknown; known: {', '.join(get_args(known))}."
                )
        self.n_layers, self.levels = layers, _levels(levels, layers, depth)
        self.resample = pair(resample, "connector texthawk resample")
        self.rearrange = pair(rearrange, "connector texthawk rearrange")
        self.positions_of: Positions = positions
        self.source_grid = self._source_grid(source_grid, queries)
        self.inputs = nn.ModuleList(nn.Linear(dim // layers, inner) for _ in range(layers))
        self.queries: nn.Module
        if self.source_grid is None:
            self.queries = QueryProposals(inner, self.resample)
        else:
            self.queries = LearnedQueries(inner, prod(self._regions(*self.source_grid)))
        if positions != "none":
            self.positions = ScalablePositions(inner, heads)
        self.resampling = nn.ModuleList(ResamplingLayer(inner, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner * prod(self.rearrange), llm_dim)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Rows and columns of tokens, of each tile or frame in front.

        Raises:
            MmllmError: no map, a map that leaves patches over, or another one than learned queries are for.
        """
        _, rows, cols = as_maps(grid, "texthawk")
        if self.source_grid not in (None, (rows, cols)):
            raise MmllmError(
                f"connector texthawk has queries for a grid of {list(self.source_grid or ())}, but the encoder gives "
                f"{rows} x {cols} patches; set source_grid: [{rows}, {cols}]."
            )
        down, across = (a * b for a, b in zip(self.resample, self.rearrange, strict=True))
        if rows % down or cols % across:
            raise MmllmError(
                f"connector texthawk makes a token of {down} x {across} patches (resample times rearrange), and the "
                f"encoder's {rows} x {cols} are no whole number of them; choose divisors."
            )
        return (*grid[:-2], rows // down, cols // across)

    def forward(self, features: Features) -> Tensor:
        """Read features float[N, T, layers * D] of each tile: float[N, n_tokens, llm_dim]; what the mask excludes is
        not read."""
        tokens, (rows, cols) = self.n_tokens(features.grid), features.grid[-2:]
        found = listed(features, self.n_layers, "texthawk")
        read = [
            self.inputs[level](layer).unflatten(1, (-1, rows * cols)).flatten(0, 1) for level, layer in enumerate(found)
        ]
        seen = features.mask.reshape(-1, rows * cols)
        z = self.queries(read[self.levels[0]], rows, cols)
        placed = None
        if self.positions_of != "none":
            placed = self._placed(features, rows, cols, z)
            z = z + self._placed(features, *self._regions(rows, cols), z)
        for layer, level in zip(self.resampling, self.levels, strict=True):
            z = layer(z, read[level], placed, seen)
        return self.output(self._rearranged(self.norm(z), *self._regions(rows, cols))).reshape(-1, tokens, self.llm_dim)

    def _placed(self, features: Features, rows: int, cols: int, like: Tensor) -> Tensor:
        """Positions of each tile's rows x cols regions, float[M, rows * cols, W]."""
        row, col = places(features, rows, cols, self.positions_of)
        return self.positions(row, col).to(like.dtype).unflatten(1, (-1, rows * cols)).flatten(0, 1)

    def _rearranged(self, z: Tensor, rows: int, cols: int) -> Tensor:
        """Neighbours side by side, row after row: float[M, rows * cols, W] -> float[M, tokens, n * W]."""
        down, across = self.rearrange
        blocks = z.unflatten(1, (rows // down, down, cols // across, across)).transpose(2, 3)
        return blocks.flatten(1, 2).flatten(2)

    def _regions(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of queries."""
        return rows // self.resample[0], cols // self.resample[1]

    def _source_grid(self, grid: Sequence[int] | None, queries: str) -> tuple[int, int] | None:
        if (grid is not None) != (queries == "learned"):
            raise MmllmError(
                "connector texthawk source_grid: learned queries belong to one map of patches, [rows, cols], and "
                f"proposed ones to none; found queries: {queries} {'with' if grid else 'without'} source_grid."
            )
        return None if grid is None else pair(grid, "connector texthawk source_grid")


def _levels(given: Sequence[int] | None, layers: int, depth: int) -> tuple[int, ...]:
    """Level that each of ``depth`` resampling layers reads."""
    if depth < 1:
        raise MmllmError(f"connector texthawk depth: {depth} must be at least 1.")
    if given is None and layers == 1:
        return (0,) * depth
    if given is None or len(given) != depth or set(given) != set(range(layers)):
        found = "none" if given is None else str(list(given))
        raise MmllmError(
            f"connector texthawk levels: found {found}; name for each of the {depth} resampling layers (depth) which "
            f"of the encoder's {layers} layers it reads, 0 to {layers - 1}, each of them at least once."
        )
    return tuple(given)
