"""A video file to upright RGB frames and their times, decoded by a program of its own; the processor of clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.decoding.process import Workers
from mmllm.processors.image import ImageProcessor, pixels_of

Backend = Literal["decord", "pyav"]
_PART = re.compile(r"#t=(?=[\d,])(\d+(?:\.\d+)?)?(?:,(\d+(?:\.\d+)?))?$")


@dataclass(frozen=True)
class Clip:
    """The frames taken of one file."""

    frames: list[NDArray[numpy.uint8]]
    """uint8[H, W, 3] each, RGB, upright."""
    seconds: list[float]
    """Time of each after the file's first frame, from its presentation time stamps."""


def segment(media: str | Path | bytes) -> tuple[str | Path | bytes, tuple[float | None, float | None]]:
    """The file, and which part of it in seconds: a path may end in ``#t=3,7.5``, ``#t=3`` or ``#t=,7.5`` as in W3C's
    Media Fragments; without it, all. MediaError where the part is empty."""
    # the file itself first: its name may really end so
    if isinstance(media, bytes) or Path(media).is_file() or not (found := _PART.search(str(media))):
        return media, (None, None)
    start, end = (None if bound is None else float(bound) for bound in found.groups())
    if end is not None and (start or 0.0) >= end:
        raise MediaError(f"video {media} begins at {start or 0:g} s and ends at {end:g} s, so it shows nothing.")
    return Path(str(media)[: found.start()]), (start, end)


class VideoReading:
    """Takes frames out of video files in worker processes, started when asked and again when one died.

    ``frames`` and ``fps``: which ones, see ``frame_choice.sampled``. ``timeout`` seconds per file, after which the
    worker is killed. ``max_pixels`` of a frame and ``max_seconds`` of a clip are checked before anything is decoded.
    Threads ask workers of their own, four at once; a forked process starts its own.

    Both backends give the same frames: those of the stream that FFmpeg calls best, in order of presentation, without
    those an edit list hides; turned upright by whole quarters as the display matrix says (mirrored or odd angles are
    refused). Pixels that are not square stay as they are stored. A path may end in the part to show (``segment``);
    times stay those of the file, and ``max_seconds`` is about the part.
    """

    def __init__(
        self, *, frames: int, fps: float | None, backend: str, timeout: float, max_pixels: int, max_seconds: float
    ) -> None:
        if backend not in get_args(Backend):
            raise MmllmError(f'backend: "{backend}" is unknown; known: {", ".join(get_args(Backend))}.')
        numbers = {"frames": frames, "timeout": timeout, "max_pixels": max_pixels, "max_seconds": max_seconds}
        for name, value in numbers.items() if fps is None else {**numbers, "fps": fps}.items():
            if not value > 0:
                raise MmllmError(f"{name}: {value:g} must be more than 0.")
        self.backend, self.timeout = backend, timeout
        limits = {"max_pixels": max_pixels, "max_seconds": max_seconds}
        self.asked = {"modality": "video", "frames": frames, "fps": fps, **limits}
        self._workers = Workers()

    def measure(self, media: str | Path | bytes) -> list[float]:
        """Times of the frames that ``read`` would give, from the container's packets; MediaError as there."""
        return list(self._ask(media, None)[0]["seconds"])

    def outline(self, media: str | Path | bytes) -> tuple[list[float], tuple[int, int]]:
        """Those times, and width and height of the frames, of which one is decoded."""
        end, _ = self._ask(media, None, size=True)
        return list(end["seconds"]), (end["width"], end["height"])

    def lasts(self, media: str | Path | bytes) -> float:
        """How long the file, or the part of it that is shown, lasts in seconds, from the container's packets."""
        return float(self._ask(media, None)[0]["lasts"])

    def read(self, media: str | Path | bytes) -> Clip:
        """The frames of one file; MediaError where it cannot be read, is over a limit, hangs or crashes its decoder."""
        end, frames = self._ask(media, self.backend)
        shape = (end["height"], end["width"], 3)
        return Clip([numpy.frombuffer(frame, numpy.uint8).reshape(shape) for frame in frames], end["seconds"])

    def worker(self) -> int | None:
        """Process id of the worker of this process that is asked next, if one is running."""
        return next(reversed(self._workers.idle()), None)

    def close(self) -> None:
        """End this process's workers."""
        self._workers.close()

    def _ask(
        self, media: str | Path | bytes, backend: str | None, size: bool = False
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The worker's answer for one file; its complaints become errors that name the file."""
        data = media if isinstance(media, bytes) else b""
        where = f"video of {len(media)} bytes" if isinstance(media, bytes) else f"video {media}"
        media, part = segment(media)
        if not isinstance(media, bytes) and not Path(media).is_file():
            raise MediaError(f"{where} does not exist or is no file.")
        if not (data or (not isinstance(media, bytes) and Path(media).stat().st_size)):
            raise MediaError(f"{where} is empty.")
        path = None if isinstance(media, bytes) else str(Path(media).absolute())
        request = {**self.asked, "path": path, "part": part, "backend": backend, "size": size}
        return self._workers.answer(where, request, data, self.timeout)


@dataclass(frozen=True)
class OwnFrames:
    """What a video processor of transformers makes of frames that have been chosen."""

    processor: Any
    size: tuple[int, int]
    """Height and width that its model takes."""

    def __call__(self, frames: Sequence[NDArray[numpy.uint8]]) -> Tensor:
        """float[F, 3, H, W] of frames uint8[H, W, 3]; MmllmError where it gives others."""
        # named pixel_values_videos, or as those of pictures
        found = self.processor(videos=[numpy.stack(frames)], do_sample_frames=False, return_tensors="pt")
        pixels = pixels_of(found)[0]
        if pixels.shape != (len(frames), 3, *self.size):
            raise MmllmError(
                f"fit: own: the folder's video processor gives {list(pixels.shape)} for {len(frames)} frames, and its "
                f"model takes {self.size[0]} x {self.size[1]} pixels; its settings are not supported, leave fit out"
            )
        return pixels


class VideoProcessor(Processor):
    """Frames of clips as a processor of pictures prepares them; grid (time, rows, cols)."""

    modality = "video"
    own: OwnFrames | None = None
    """Prepares the frames in place of the processor of pictures; an attribute of the object where there is one, and of
    its digest."""

    def __init__(
        self,
        image: ImageProcessor,
        reading: VideoReading,
        *,
        frames: int,
        fps: float | None,
        own: OwnFrames | None = None,
    ) -> None:
        """``image`` prepares each frame, or ``own`` all of a clip; ``reading`` takes them: ``frames`` of each clip, or
        by ``fps`` at most so many."""
        self.image, self.reading = image, reading
        self.frames, self.fps = frames, fps
        if own is not None:  # runs without it keep the digest that they had before there was a choice
            self.own = own

    def read(self, media: str | Path | bytes) -> Item:
        """Read one clip -> ``pixels`` float[F, 3, H, W] and ``times`` float64[F] in seconds; see VideoReading."""
        clip = self.reading.read(media)
        if self.own is None:
            pixels = torch.stack([self.image.transform(Image.fromarray(frame)) for frame in clip.frames])
        else:
            pixels = self.own(clip.frames)
        return {"pixels": pixels, "times": torch.tensor(clip.seconds, dtype=torch.float64)}

    def content(self, media: str | Path | bytes) -> Content | None:
        """The file, its ending (FFmpeg looks at it too) and the part of it that is shown."""
        file, part = segment(media)
        return of_file(file, f"{'' if isinstance(file, bytes) else Path(file).suffix.lower()} {part}")

    def measure(self, media: str | Path | bytes) -> Item:
        """``times`` float64[F] from the container's packets; nothing is decoded."""
        return {"times": torch.tensor(self.reading.measure(media), dtype=torch.float64)}

    def seconds(self, info: ItemInfo) -> list[float]:
        """Time of each frame after the clip's first one."""
        return [float(time) for time in info["times"]]

    @property
    def extra_tokens(self) -> int:
        """Those of each picture."""
        return self.image.extra_tokens

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(frames, rows, cols)."""
        return len(info["times"]), *self.image.fixed_grid()

    def fixed_grid(self) -> tuple[int, int, int] | None:
        """(frames, rows, cols) without ``fps``; else it depends on the clip's length."""
        return (self.frames, *self.image.fixed_grid()) if self.fps is None else None

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """All frames behind each other: ``pixels`` float[sum of F, 3, H, W], ``counts`` int64[N] frames of each clip,
        ``times`` float64[N, most F], -1 where there is none.
        """
        times = [item["times"] for item in items]
        return {
            "pixels": torch.cat([item["pixels"] for item in items]),
            "counts": torch.tensor([len(one) for one in times]),
            "times": pad_sequence(times, batch_first=True, padding_value=-1.0),
        }

    def blank(self) -> Item:
        """Black frames at time 0: as many as every clip has, or one."""
        frames = self.frames if self.fps is None else 1
        pixels = self.image.blank()["pixels"].expand(frames, -1, -1, -1).clone()
        return {"pixels": pixels, "times": torch.zeros(frames, dtype=torch.float64)}
