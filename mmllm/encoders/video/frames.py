"""The ``frames`` encoder: an image encoder of the registry on some frames of a video, grid (time, rows, cols)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm import registry
from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.vit_base import ImageEncoder
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.video import VideoReading
from mmllm.registry import EncoderPart
from mmllm.types import Features


class FramesEncoder(Encoder):
    """Frames spread evenly over a clip, each seen by the image encoder ``image: {type: ..., <its arguments>}``.

    ``frames`` is the most of one clip. Without ``fps`` every clip gives exactly that many, and one with fewer shows
    some twice, so all grids are equal; with ``fps`` a short clip gives fewer: at least 1 / fps seconds lie between two.
    ``layers`` are arguments of the image encoder. Times come from the file's time stamps, also where the frame rate
    varies.

    Decoding (``backend`` decord | pyav, which give the same frames) happens in another process that is killed after
    ``timeout`` seconds; ``max_pixels`` of a frame and ``max_seconds`` of a clip are checked before it.
    """

    modality = "video"

    def __init__(
        self,
        *,
        image: EncoderPart,
        frames: int = 8,
        fps: float | None = None,
        backend: str = "decord",
        timeout: float = 30.0,
        max_pixels: int = 10_000_000,
        max_seconds: float = 3600.0,
    ) -> None:
        inner = image_encoder(image)
        super().__init__(layers=inner.layers)
        self.image = inner
        # adapters in its blocks hang on this encoder: they are told of clips, and its passes need gradients for them
        inner.adapters, inner.scope = self.adapters, self.scope
        self.dim = inner.dim
        self.frames, self.fps = frames, fps
        self.reading = VideoReading(
            frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
        )
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the image encoder."""
        return self.image.n_blocks

    def read(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """One clip -> ``pixels`` float[F, 3, H, W] and ``times`` float64[F] in seconds; see VideoReading."""
        clip = self.reading.read(media)
        pixels = [self.image.preprocess(Image.fromarray(frame)) for frame in clip.frames]
        return {"pixels": torch.stack(pixels), "times": torch.tensor(clip.seconds, dtype=torch.float64)}

    def measure(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """``times`` float64[F] from the container's packets; nothing is decoded."""
        return {"times": torch.tensor(self.reading.measure(media), dtype=torch.float64)}

    def seconds(self, inputs: Mapping[str, Tensor]) -> list[float]:
        """Time of each frame after the clip's first one."""
        return [float(time) for time in inputs["times"]]

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(frames, rows, cols)."""
        return len(inputs["times"]), *self.image.fixed_grid()

    def fixed_grid(self) -> tuple[int, ...] | None:
        """(frames, rows, cols) without ``fps``; else it depends on the clip's length."""
        return (self.frames, *self.image.fixed_grid()) if self.fps is None else None

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """All frames behind each other: ``pixels`` float[sum of F, 3, H, W], ``counts`` int64[N] frames of each clip,
        ``times`` float64[N, most F], -1 where there is none.
        """
        times = [item["times"] for item in items]
        return {
            "pixels": torch.cat([item["pixels"] for item in items]),
            "counts": torch.tensor([len(one) for one in times]),
            "times": pad_sequence(times, batch_first=True, padding_value=-1.0),
        }

    def forward(self, **inputs: Tensor) -> Features:
        """What ``collate`` gives -> layers float[N, most F * rows * cols, D], fact ``times`` float[N, most F]."""
        counts: list[int] = inputs["counts"].tolist()
        rows, cols = self.image.fixed_grid()
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

    def dummy(self) -> dict[str, Tensor]:
        """Black frames at time 0: as many as every clip has, or one."""
        frames = self.frames if self.fps is None else 1
        pixels = self.image.dummy()["pixels"].expand(frames, -1, -1, -1).clone()
        return {"pixels": pixels, "times": torch.zeros(frames, dtype=torch.float64)}

    @classmethod
    def tiny(cls) -> FramesEncoder:
        """A tiny ``hf_vision`` on at most 3 frames, 5 per second: clips differ in their number of frames."""
        with tempfile.TemporaryDirectory() as folder:
            inner = registry.load("encoders", "hf_vision").tiny()
            inner.vision.save_pretrained(folder)
            inner.image_processor.save_pretrained(folder)
            return cls(image={"type": "hf_vision", "model": folder}, frames=3, fps=5.0)

    def tiny_media(self) -> list[Any]:
        """Three mp4 files: a bar that moves over 3 frames, another colour over 2, a still one of 1."""
        return [tiny_clip((200, 30, 30), 3), tiny_clip((30, 30, 200), 2), tiny_clip((30, 160, 30), 1)]


def tiny_clip(colour: tuple[int, int, int], frames: int) -> bytes:
    """An mp4 file of 32 x 32 pixels, 5 frames a second: a bar of that colour moves over white."""
    clip = numpy.full((frames, 32, 32, 3), 255, numpy.uint8)
    for number, frame in enumerate(clip):
        frame[:, 8 * number : 8 * number + 12] = colour
    return mp4(clip, [number / 5 for number in range(frames)])


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
