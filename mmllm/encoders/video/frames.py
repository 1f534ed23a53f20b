"""The ``frames`` encoder: an image encoder of the registry on some frames of a video, grid (time, rows, cols)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import AutoVideoProcessor

from mmllm.encoders.image.several import PicturesEncoder, image_encoder, side_by_side
from mmllm.encoders.pretrained import load_processor
from mmllm.errors import MmllmError
from mmllm.processors.video import OwnFrames, VideoProcessor, VideoReading
from mmllm.registry import EncoderPart
from mmllm.types import Features


class FramesEncoder(PicturesEncoder):
    """Frames spread evenly over a clip, each seen by the image encoder ``image: {type: ..., <its arguments>}``.

    ``frames`` is the most of one clip. Without ``fps`` every clip gives exactly that many, and one with fewer shows
    some twice, so all grids are equal; with ``fps`` a short clip gives fewer: at least 1 / fps seconds lie between two.
    ``layers`` are arguments of the image encoder. Times come from the file's time stamps, also where the frame rate
    varies. With ``fit: own`` the video processor of the image encoder's folder prepares the frames, which may differ
    from how its image processor has pictures.

    Decoding (``backend`` pyav | decord, which give the same frames, pyav in less time) happens in another process that
    is killed after ``timeout`` seconds; ``max_pixels`` of a frame and ``max_seconds`` of a clip are checked before it.
    """

    processor: VideoProcessor
    host_inputs = ("counts",)
    processor_class: ClassVar[type[VideoProcessor]] = VideoProcessor

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
        fit: str | None = None,
    ) -> None:
        super().__init__(image_encoder(image))
        reading = VideoReading(
            frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
        )
        own = None if fit is None else own_frames(fit, image, self.image.processor.size)
        self.processor = self.processor_class(self.image.processor, reading, frames=frames, fps=fps, own=own)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """Collated clips -> layers float[N, most F * rows * cols, D], extra ``times`` float[N, most F]."""
        counts: list[int] = inputs["counts"].tolist()
        seen = self.seen(inputs["pixels"], counts)
        grid = self.image.processor.fixed_grid()
        return side_by_side(seen, counts, grid, {"times": inputs["times"].float()})


def own_frames(fit: str, image: EncoderPart, size: tuple[int, int]) -> OwnFrames:
    """The folder's video processor; MmllmError where there is none."""
    if fit != "own" or "model" not in image:
        raise MmllmError(
            f'fit: "{fit}": of frames there is own alone, with an image encoder whose `model` is a folder with a video '
            "processor; how each is brought to size as a picture is the image encoder's `fit`."
        )
    return OwnFrames(load_processor(AutoVideoProcessor, str(image["model"]), "a clip"), size)
