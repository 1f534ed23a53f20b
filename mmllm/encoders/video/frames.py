"""The ``frames`` encoder: an image encoder of the registry on some frames of a video, grid (time, rows, cols)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm import registry
from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.vit_base import ImageEncoder
from mmllm.errors import MmllmError
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
        sizes = [count * rows * cols for count in counts]
        layers = {
            index: pad_sequence(list(layer.flatten(0, 1).split(sizes)), batch_first=True)
            for index, layer in seen.layers.items()
        }
        mask = torch.arange(max(sizes), device=seen.mask.device) < inputs["counts"][:, None] * (rows * cols)
        grids = tuple((count, rows, cols) for count in counts)
        extras = {"times": inputs["times"].float()}
        return Features(layers, mask, max(grids), grids if len(set(grids)) > 1 else None, extras)

    def hook_points(self) -> BlockHooks:
        """The image encoder's blocks; their rows are the frames of all clips."""
        return self.image.hook_points()


def image_encoder(part: EncoderPart) -> ImageEncoder:
    """The image encoder that a mapping of ``type`` and arguments names; MmllmError where it names none."""
    if "type" not in part:
        raise MmllmError('frames: image needs a "type", such as hf_vision or open_clip.')
    args = {name: value for name, value in part.items() if name != "type"}
    try:
        kind = registry.load("encoders", str(part["type"]))
        known = registry.parameters("encoders", str(part["type"]))
    except registry.UnknownName as error:
        raise MmllmError(f"frames: image: {error}") from error
    if not issubclass(kind, ImageEncoder):
        raise MmllmError(f'frames: image: "{part["type"]}" is no encoder of images.')
    for name in args:
        if name not in known:
            raise MmllmError(f'frames: image: unknown argument "{name}" of {part["type"]}; known: {", ".join(known)}.')
    lacking = [name for name, parameter in known.items() if parameter.required and name not in args]
    if lacking:
        raise MmllmError(f'frames: image: {part["type"]} needs the argument "{lacking[0]}"; known: {", ".join(known)}.')
    return kind(**args)
