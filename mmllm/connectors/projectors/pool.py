"""The ``pool`` connector: averages blocks of patches, frames or both, then an MLP; a token still owns its region."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp, norm_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

AXES = {1: "[time]", 2: "[rows, cols]", 3: "[time, rows, cols]"}
"""Number of pooled axes -> how a recipe writes them."""
MEANS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class PoolConnector(Projector):
    """Mean over blocks of patches, then an MLP W2 GELU(W1 Y + b1) + b2 (InfMLLM, Zhou et al. 2023, arXiv 2311.06791).

    Over the last axes of the encoder's grid, as many as are given: [rows, cols] pools each frame or tile by itself,
    [time, rows, cols] a clip in time too, [time] what has no space (sound). One of two says how far:

    - ``grid`` is the pooled grid; the encoder's must be a whole multiple of it. The default is [12, 12].
    - ``stride`` is the size of a block, for items whose length varies: the last block of an axis may be smaller, and
      averages what is there, so an axis of n gives ceil(n / stride).

    ``depth`` counts the linear layers of the MLP, ``width`` the channels between them (default: the LLM's). No position
    table: position is in the features, the raster order and the LLM's own. ``norm`` puts a LayerNorm (``rms``: an
    RMSNorm) with ``eps`` before the pooling, as InfMLLM has after its encoder: for encoders whose hidden states are
    large, and an MLP of ordinary size would start far outside the LLM's embeddings. ``norm_after`` puts it behind the
    pooling, as Gemma 3 (2503.19786) has its RMSNorm. ``bias`` and ``activation``: as in ``mlp``.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        grid: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        depth: int = 2,
        norm: bool | str = False,
        eps: float = 1e-5,
        norm_after: bool = False,
        width: int | None = None,
        bias: bool = True,
        activation: str = "gelu",
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if grid is not None and stride is not None:
            raise MmllmError(
                f"connector pool: grid {list(grid)} and stride {list(stride)} say the same thing twice; give one."
            )
        if stride is None:
            self.grid: tuple[int, ...] | None = _axes((12, 12) if grid is None else grid, "grid")
            self.stride: tuple[int, ...] | None = None
        else:
            self.grid, self.stride = None, _axes(stride, "stride")
        if norm_after and norm is False:
            raise MmllmError("connector pool: norm_after says where the norm is, and there is none; add norm: rms.")
        self.norm, self.norm_after = norm_of(norm, dim, eps), norm_after
        self.mlp = mlp(dim, llm_dim, depth, activation, width, bias)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the encoder with its last axes pooled.

        Raises:
            MmllmError: the grid has other axes, or the blocks of ``grid`` do not come out whole.
        """
        front, last = self._split(grid)
        block = self._block(last)
        return (*front, *(-(-n // size) for n, size in zip(last, block, strict=True)))

    def forward(self, features: Features) -> Tensor:
        """Average and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        tokens = self.n_tokens(features.grid)
        _, last = self._split(features.grid)
        x = features.concatenated()
        x = x if self.norm_after else self.norm(x)
        if not tokens:
            return self.mlp(x)
        maps = x.reshape(-1, *last, x.shape[-1]).movedim(-1, 1)
        # the last block of an axis may be smaller (`stride`): with ceil_mode torch averages what is there
        means = MEANS[len(last)](maps, self._block(last), ceil_mode=True)
        means = means.flatten(2).transpose(1, 2).reshape(x.shape[0], tokens, x.shape[-1])
        return self.mlp(self.norm(means) if self.norm_after else means)

    def _split(self, grid: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Split into (axes left as they are, axes that are pooled); only rows and cols may have others in front."""
        n_axes = len(self.grid or self.stride or ())
        if len(grid) < n_axes or (n_axes != 2 and len(grid) > n_axes):
            word = "grid" if self.stride is None else "stride"
            raise MmllmError(
                f"connector pool {word}: {list(self.grid or self.stride or ())} is over {AXES[n_axes]}, but this "
                f"encoder's grid is {list(grid)}; give one number for each of its axes."
            )
        return tuple(grid[:-n_axes]), tuple(grid[-n_axes:])

    def _block(self, last: Sequence[int]) -> tuple[int, ...]:
        """Size of the first block along each pooled axis."""
        if self.grid is None:
            assert self.stride is not None
            # at least 1: a sound may be shorter than a token of its encoder, and then has none
            return tuple(max(1, min(n, size)) for n, size in zip(last, self.stride, strict=True))
        if any(n % parts or not n for n, parts in zip(last, self.grid, strict=True)):
            sizes = " and ".join(f"{n} / {parts}" for n, parts in zip(last, self.grid, strict=True))
            raise MmllmError(
                f"connector pool cannot average {' x '.join(map(str, last))} patches to a grid of {list(self.grid)}: "
                f"{sizes} must be whole numbers; choose divisors of them, or a stride."
            )
        return tuple(n // parts for n, parts in zip(last, self.grid, strict=True))


def _axes(values: Sequence[int], word: str) -> tuple[int, ...]:
    if len(values) not in AXES or min(values) < 1:
        known = ", ".join(AXES.values())
        raise MmllmError(f"connector pool {word}: {list(values)} must be {known}, all at least 1.")
    return tuple(values)
