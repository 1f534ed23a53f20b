"""The ``temporal_conv`` connector: convolutions within frames, one across space and time, an MLP (VideoLLaMA2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.projectors.c_abstractor import regnet_blocks
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class TemporalConvConnector(Projector):
    """The spatial-temporal convolution connector of VideoLLaMA 2 (Cheng et al. 2024, arXiv 2406.07476).

    ``depth`` RegNet blocks within each frame -> Conv3d whose kernel and stride are both ``downsample`` [time, rows,
    cols], SiLU -> ``depth`` RegNet blocks within each new frame -> ``mlp_depth`` linear layers, GELU. All ``width``
    channels wide, the LLM's unless given.

    ``padding`` 0 is VideoLLaMA 2.1: rows and columns that do not fill a block are left out (27 x 27 patches give
    13 x 13), as in its code. A clip's last frames never are: where they do not fill a step, the last one is repeated.
    So 16 frames of 27 x 27 give 8 * 13 * 13 = 1352 tokens, and a picture (a clip of one frame) one step. ``padding`` 1
    is VideoLLaMA 2: zeros around the clip on every side, in time too, and nothing is repeated.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        downsample: Sequence[int] = (2, 2, 2),
        padding: int = 0,
        depth: int = 4,
        width: int | None = None,
        mlp_depth: int = 2,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if len(downsample) != 3 or min(downsample) < 1:
            raise MmllmError(
                f"connector temporal_conv downsample: {list(downsample)} must be [time, rows, cols], all at least 1."
            )
        if padding not in (0, 1):
            raise MmllmError(f"connector temporal_conv padding: {padding} must be 0 or 1.")
        if depth < 0:
            raise MmllmError(f"connector temporal_conv depth: {depth} must be at least 0.")
        self.downsample, self.padding = (downsample[0], downsample[1], downsample[2]), padding
        channels = llm_dim if width is None else width
        self.before = regnet_blocks(depth, dim, channels) if depth else nn.Identity()
        self.sample = nn.Conv3d(channels if depth else dim, channels, self.downsample, self.downsample, padding)
        self.after = regnet_blocks(depth, channels, channels) if depth else nn.Identity()
        self.mlp = mlp(channels, llm_dim, mlp_depth)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid (time, rows, cols) after the convolution; a picture has one step.

        Raises:
            MmllmError: nothing would be left, or the grid has other axes.
        """
        clip = self._clip(grid)
        sizes = (clip[0] + self._repeats(clip[0]), *clip[1:])
        pairs = zip(sizes, self.downsample, strict=True)
        found = tuple((n + 2 * self.padding - step) // step + 1 for n, step in pairs)
        if min(found) < 1:
            raise MmllmError(
                f"connector temporal_conv downsample: {list(self.downsample)} leaves nothing of a grid of {list(grid)}"
                "; choose smaller steps."
            )
        return found

    def forward(self, features: Features) -> Tensor:
        """Convolve and project features float[N, time * rows * cols, dim]: float[N, n_tokens, llm_dim]."""
        tokens = self.n_tokens(features.grid)
        time, rows, cols = self._clip(features.grid)
        x = features.concatenated()
        frames = x.reshape(-1, rows, cols, x.shape[-1]).permute(0, 3, 1, 2)
        clips = self.before(frames).unflatten(0, (len(x), time)).transpose(1, 2)  # N, channels, time, rows, cols
        repeats = self._repeats(time)
        if repeats:
            clips = functional.pad(clips, (0, 0, 0, 0, 0, repeats), mode="replicate")
        sampled = functional.silu(self.sample(clips)).transpose(1, 2)
        steps = self.after(sampled.flatten(0, 1))
        return self.mlp(steps.flatten(2).transpose(1, 2)).reshape(len(x), tokens, self.llm_dim)

    def _clip(self, grid: Sequence[int]) -> tuple[int, int, int]:
        """Read a grid as (time, rows, cols); a picture is a clip of one frame."""
        if len(grid) not in (2, 3):
            raise MmllmError(
                f"connector temporal_conv needs a grid of time, rows and columns; this encoder gives {list(grid)}."
            )
        time, rows, cols = (1, *grid) if len(grid) == 2 else grid
        return time, rows, cols

    def _repeats(self, time: int) -> int:
        """Number of times the last frame is repeated so that the last step is full."""
        return 0 if self.padding else -time % self.downsample[0]
