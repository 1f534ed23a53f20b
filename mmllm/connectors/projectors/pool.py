"""The ``pool`` connector: pools blocks of patches, frames or both, then an MLP; a token still owns its region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import CALIBRATED, mlp, norm_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

AXES = {1: "[time]", 2: "[rows, cols]", 3: "[time, rows, cols]"}
"""Number of pooled axes -> how a recipe writes them."""
By = Literal["mean", "max", "bilinear"]
MEANS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
LARGEST = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


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
    pooling, as Gemma 3 (2503.19786) has its RMSNorm. ``norm: calibrated`` (with ``norm_after``) is a LayerNorm whose
    gain and bias are set from items before the first step, see ``norm_of``. ``bias`` and ``activation``: as in ``mlp``.

    ``by: max`` takes the largest of a block in each channel (a choice of LLaVA-NeXT-Video). ``by: bilinear`` resizes
    [rows, cols] instead, without antialiasing, so blocks need not come out whole. ``pool_last`` pools behind the MLP;
    with ``by: bilinear`` that is how LLaVA-OneVision (2408.03326) has frames.
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
        by: By = "mean",
        pool_last: bool = False,
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
        if norm == CALIBRATED and not norm_after:
            raise MmllmError(
                "connector pool: norm: calibrated is set from what enters the MLP, and pooling would come between; add "
                "norm_after: true."
            )
        if by not in get_args(By):
            raise MmllmError(f'connector pool by: "{by}" is unknown; known: {", ".join(get_args(By))}.')
        if by == "bilinear" and len(self.grid or self.stride or ()) != 2:
            raise MmllmError("connector pool by: bilinear resizes [rows, cols]; give two numbers.")
        if norm_after and pool_last:
            raise MmllmError("connector pool: norm_after is between pooling and MLP, and pool_last turns them round.")
        self.by, self.pool_last = by, pool_last
        self.norm, self.norm_after = norm_of(norm, dim, eps), norm_after
        self.mlp = mlp(dim, llm_dim, depth, activation, width, bias)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the encoder with its last axes pooled.

        Raises:
            MmllmError: the grid has other axes, or the blocks of ``grid`` do not come out whole.
        """
        front, last = self._split(grid)
        if self.by == "bilinear" and self.grid is not None:
            return (*front, *self.grid)
        block = self._block(last)
        return (*front, *(-(-n // size) for n, size in zip(last, block, strict=True)))

    def forward(self, features: Features) -> Tensor:
        """Average and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        x = features.concatenated()
        x = x if self.norm_after else self.norm(x)
        if not self.n_tokens(features.grid):
            return self.mlp(x)
        if self.pool_last:
            return self._pooled(self.mlp(x), features.grid)
        pooled = self._pooled(x, features.grid)
        return self.mlp(self.norm(pooled) if self.norm_after else pooled)

    def _pooled(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """float[N, T, D] of this grid -> float[N, n_tokens, D]."""
        _, last = self._split(grid)
        maps = x.reshape(-1, *last, x.shape[-1]).movedim(-1, 1)
        if self.by == "bilinear":
            maps = functional.interpolate(maps, self.out_grid(grid)[-2:], mode="bilinear")
        else:
            # the last block of an axis may be smaller (`stride`): with ceil_mode torch pools what is there
            pool = (MEANS if self.by == "mean" else LARGEST)[len(last)]
            maps = pool(maps, self._block(last), ceil_mode=True)
        return maps.flatten(2).transpose(1, 2).reshape(x.shape[0], -1, x.shape[-1])

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
