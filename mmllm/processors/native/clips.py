"""Clips at their own shape, as vectors of patches that last several frames; read for towers of native resolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.errors import MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.video import VideoReading, segment
from mmllm.types import Grid


class ClipPatching(ABC):
    """How one kind of video processor brings frames to patches: settings alone, small when pickled."""

    steps: int
    """Frames that a patch lasts."""
    channels: int
    """C, numbers of one patch."""

    @abstractmethod
    def grid(self, frames: int, width: int, height: int) -> Grid:
        """(time, rows, cols) of patches of so many frames of this size in pixels; MediaError where they have none."""

    @abstractmethod
    def patches(self, frames: Sequence[NDArray[numpy.uint8]]) -> Tensor:
        """float[patches, C] of frames uint8[H, W, 3], in the order and normalisation of its tower."""

    @abstractmethod
    def shown(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[time, 3, H, W] in 0..1: the first frame of each step as its tower gets it, in its own colours."""

    @abstractmethod
    def seconds(self, times: Sequence[float]) -> list[float]:
        """Time of each step of the grid, of frames at these times."""


class ClipProcessor(Processor):
    """Each clip as ``patches`` float[P, C], its ``grid`` int64[3] and the ``times`` float64[T] of its steps."""

    modality = "video"

    def __init__(self, patching: ClipPatching, reading: VideoReading) -> None:
        """``patching``: of the folder's video processor; ``reading`` takes the frames."""
        self.patching, self.reading = patching, reading

    def read(self, media: str | Path | bytes) -> Item:
        """Read one clip; see VideoReading for what is refused.

        Raises:
            MediaError: it cannot be read.
            MmllmError: the folder's video processor gives other patches than were counted beforehand.
        """
        clip = self.reading.read(media)
        height, width = clip.frames[0].shape[:2]
        item = self._measured(clip.seconds, (width, height))
        patches = self.patching.patches(clip.frames)
        if len(patches) != prod(self.grid(item)):
            raise MmllmError(
                f"the folder's video processor makes {len(patches)} patches of {len(clip.frames)} frames of {width} x "
                f"{height}, where {' x '.join(map(str, self.grid(item)))} were expected; its settings are not "
                "supported."
            )
        return {"patches": patches, **item}

    def measure(self, media: str | Path | bytes) -> ItemInfo:
        """``grid`` and ``times``, from the container's packets and the first frame."""
        return self._measured(*self.reading.outline(media))

    def content(self, media: str | Path | bytes) -> Content | None:
        """The file, its ending (FFmpeg looks at it too) and the part of it that is shown."""
        file, part = segment(media)
        return of_file(file, f"{'' if isinstance(file, bytes) else Path(file).suffix.lower()} {part}")

    def seconds(self, info: ItemInfo) -> list[float]:
        """Time of each step of the grid after the clip's first frame."""
        return [float(time) for time in info["times"]]

    def grid(self, info: ItemInfo) -> Grid:
        """(time, rows, cols) of patches."""
        return tuple(info["grid"].tolist())

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Items packed: ``patches`` float[sum of P, C], clip after clip, ``grids`` int64[N, 3], ``times`` float64[N,
        most T], -1 where there is none."""
        return {
            "patches": torch.cat([item["patches"] for item in items]),
            "grids": torch.stack([item["grid"] for item in items]),
            "times": pad_sequence([item["times"] for item in items], batch_first=True, padding_value=-1.0),
        }

    def blank(self) -> Item:
        """The smallest clip of one step, of zeros."""
        item = self._measured([0.0] * self.patching.steps, (1, 1))
        return {"patches": torch.zeros(prod(self.grid(item)), self.patching.channels), **item}

    def _measured(self, times: Sequence[float], size: tuple[int, int]) -> Item:
        grid = self.patching.grid(len(times), *size)
        return {
            "grid": torch.tensor(grid),
            "times": torch.tensor(self.patching.seconds(times), dtype=torch.float64),
        }
