"""The ``frames`` encoder: an image encoder of the registry on some frames of a video, grid (time, rows, cols)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.several import image_encoder, side_by_side
from mmllm.hooks import TokenLayout
from mmllm.processors.video import VideoProcessor, VideoReading
from mmllm.registry import EncoderPart
from mmllm.types import Features


class FramesEncoder(Encoder):
    """Frames spread evenly over a clip, each seen by the image encoder ``image: {type: ..., <its arguments>}``.

    ``frames`` is the most of one clip. Without ``fps`` every clip gives exactly that many, and one with fewer shows
    some twice, so all grids are equal; with ``fps`` a short clip gives fewer: at least 1 / fps seconds lie between two.
    ``layers`` are arguments of the image encoder. Times come from the file's time stamps, also where the frame rate
    varies.

    Decoding (``backend`` pyav | decord, which give the same frames, pyav in less time) happens in another process that
    is killed after ``timeout`` seconds; ``max_pixels`` of a frame and ``max_seconds`` of a clip are checked before it.
    """

    processor: VideoProcessor
    processor_class: ClassVar[type[VideoProcessor]] = VideoProcessor
    gives_final = True

    def __init__(
        self,
        *,
        image: EncoderPart,
        frames: int = 8,
        fps: float | None = None,
        backend: str = "pyav",
        timeout: float = 30.0,
        max_pixels: int = 10_000_000,
        max_seconds: float = 3600.0,
    ) -> None:
        inner = image_encoder(image)
        # the image encoder's layers: a recipe names them there
        super().__init__(layers=inner.layers)
        self.image = inner
        # adapters in its blocks hang on this encoder: they are told of clips, and its passes need gradients for them
        inner.adapters, inner.scope = self.adapters, self.scope
        self.dim = inner.dim
        reading = VideoReading(
            frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
        )
        self.processor = self.processor_class(inner.processor, reading, frames=frames, fps=fps)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the image encoder."""
        return self.image.n_blocks

    def forward(self, **inputs: Tensor) -> Features:
        """Collated clips -> layers float[N, most F * rows * cols, D], extra ``times`` float[N, most F]."""
        counts: list[int] = inputs["counts"].tolist()
        rows, cols = self.image.processor.fixed_grid()
        with self.laid_out(TokenLayout(tuple(counts), (rows, cols), self.image.prefix)):
            seen = self.image.features(inputs["pixels"], self.layers)
        return side_by_side(seen, inputs["counts"], counts, (rows, cols), {"times": inputs["times"].float()})

    def hook_points(self) -> BlockHooks:
        """The image encoder's blocks; their rows are the frames of all clips."""
        return self.image.hook_points()
