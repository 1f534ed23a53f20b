"""Patches of clips as the video processors of Qwen-VL make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.native.clips import ClipPatching
from mmllm.processors.native.processor import Limits
from mmllm.processors.native.qwen import QwenSettings, raster
from mmllm.types import Grid


@dataclass(frozen=True)
class QwenClips(QwenSettings, ClipPatching):  # type: ignore[override]  # ``channels`` is set by others
    """Qwen2-VL's and Qwen2.5-VL's: each frame is brought to size as a picture is, ``steps`` of them make a patch.

    A clip whose frames do not come out even shows its last one again. The time of a step is its first frame's.
    """

    @classmethod
    def of(cls, own: Any, config: Any, limits: Limits) -> Self:
        """That of the video processor ``own``; MmllmError also where it caps frames."""
        found = super().of(own, config, limits)
        if own.cap_pixels_per_frame:
            raise MmllmError(
                "the folder's video processor has cap_pixels_per_frame; it is not supported, set it false."
            )
        return found

    def grid(self, frames: int, width: int, height: int) -> Grid:
        """(time, rows, cols); MediaError where it is more than 200 times as long as wide."""
        try:
            rows, cols = self.size(frames, width, height)
        except ValueError as error:
            raise MediaError(f"frames of {width} x {height} pixels are too narrow ({error}).") from error
        return -(-frames // self.steps), rows // self.patch, cols // self.patch

    def size(self, frames: int, width: int, height: int) -> tuple[int, int]:
        """(height, width) in pixels that frames are brought to."""
        # here, not above: settings alone are opened without torchvision
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        found = smart_resize(height, width, self.patch * self.merge, self.least, self.most)
        return found[0], found[1]

    def patches(self, frames: Sequence[NDArray[numpy.uint8]]) -> Tensor:
        """float[patches, 3 * steps * patch * patch]."""
        words: dict[str, Any] = {"size": {"shortest_edge": self.least, "longest_edge": self.most}}
        words |= {"do_sample_frames": False, "cap_pixels_per_frame": False, "return_tensors": "pt"}
        found: Tensor = self.own(videos=[numpy.stack(frames)], **words)["pixel_values_videos"]
        return found

    def shown(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[time, 3, H, W] in 0..1."""
        steps, rows, cols = grid
        side = self.patch
        first = patches.reshape(len(patches), 3, self.steps, side, side)[:, :, 0]
        cut = raster(first, [grid], self.merge).reshape(steps, rows, cols, 3, side, side)
        frames = cut.permute(0, 3, 1, 4, 2, 5).reshape(steps, 3, rows * side, cols * side)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.own.image_mean, self.own.image_std))
        return (frames * std + mean).clamp(0, 1)

    def seconds(self, times: Sequence[float]) -> list[float]:
        """Time of each step's first frame."""
        return list(times[:: self.steps])


@dataclass(frozen=True)
class Qwen3Clips(QwenClips):
    """Qwen3-VL's: the bounds are on the pixels of all frames. The time of a step is halfway through its frames."""

    def size(self, frames: int, width: int, height: int) -> tuple[int, int]:
        """(height, width) in pixels that frames are brought to."""
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        frames, block = max(frames, self.steps), self.patch * self.merge
        found = smart_resize(frames, height, width, self.steps, block, self.least, self.most)
        return found[0], found[1]

    def patches(self, frames: Sequence[NDArray[numpy.uint8]]) -> Tensor:
        """float[patches, 3 * steps * patch * patch]; a clip of fewer frames than a step shows its last one again."""
        return super().patches([*frames, *[frames[-1]] * (self.steps - len(frames))])

    def seconds(self, times: Sequence[float]) -> list[float]:
        """Mean time of each step's first and last frame."""
        ends = [times[min(first + self.steps, len(times)) - 1] for first in range(0, len(times), self.steps)]
        return [(first + last) / 2 for first, last in zip(times[:: self.steps], ends, strict=True)]
