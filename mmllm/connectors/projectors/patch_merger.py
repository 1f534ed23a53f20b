"""The ``patch_merger`` connector: normed patches merged block by block into one as wide as they are, then an MLP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import as_maps, mlp, norm_of
from mmllm.connectors.projectors.pixel_shuffle import blocks_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class PatchMergerConnector(Projector):
    """RMSNorm of each patch, factor x factor of them through one linear layer, then Linear, GELU, Linear.

    The projector of Mistral 3 (Mistral Small 3.1, 2025; as transformers computes it): the merging layer gives ``dim``
    channels of ``factor ** 2 * dim`` and has no bias and no activation, so a token is first made a patch again. The
    order inside a block is that of ``pixel_shuffle``: row, column, channel. ``norm``, ``eps``, ``depth``, ``width``,
    ``bias`` and ``activation``: as there; ``bias`` is of the layers behind the merging one.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        factor: int = 2,
        norm: bool | str = "rms",
        eps: float = 1e-5,
        depth: int = 2,
        width: int | None = None,
        bias: bool = False,
        activation: str = "gelu",
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if factor < 1:
            raise MmllmError(f"connector patch_merger factor: {factor} must be at least 1.")
        self.factor = factor
        self.norm = norm_of(norm, dim, eps)
        self.merge = nn.Linear(factor**2 * dim, dim, bias=False)
        self.mlp = mlp(dim, llm_dim, depth, activation, width, bias)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the blocks: rows and columns over the factor, tiles in front as they are.

        Raises:
            MmllmError: rows or columns are not whole multiples of the factor, or there are none.
        """
        _, rows, cols = as_maps(grid, "patch_merger")
        if rows % self.factor or cols % self.factor:
            raise MmllmError(
                f"connector patch_merger factor: {self.factor} must divide the encoder's grid of {rows} x {cols}; an "
                f"encoder for pictures of any size keeps to it with merge: {self.factor}."
            )
        return (*grid[:-2], rows // self.factor, cols // self.factor)

    def forward(self, features: Features) -> Tensor:
        """Norm, merge and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        _, rows, cols = as_maps(features.grid, "patch_merger")
        x = self.norm(features.concatenated())
        merged = blocks_of(x, rows, cols, self.factor, self.factor).reshape(
            x.shape[0], self.n_tokens(features.grid), -1
        )
        tokens: Tensor = self.mlp(self.merge(merged))
        return tokens
