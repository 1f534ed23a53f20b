"""The ``hf_video`` encoder: towers of transformers that see clips in patches that last several frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor
from transformers import AutoVideoProcessor

from mmllm.encoders.image.native.hf_native import HfNativeEncoder, tower_kind
from mmllm.encoders.pretrained import load_processor
from mmllm.processors.native.clips import ClipPatching, ClipProcessor
from mmllm.processors.native.processor import Limits
from mmllm.processors.video import VideoReading
from mmllm.types import Features


class HfVideoEncoder(HfNativeEncoder):
    """Clips through a tower of native resolution, grid (time, rows, cols): Qwen-VL's (2409.12191) sees frames by pairs.

    Frames keep their shape; of an odd number the last one is seen twice. Pixels are those of the folder's own video
    processor, ``least`` and ``most`` its bounds (pixels of a frame; in Qwen3-VL of all frames). Which frames are taken,
    ``frames`` and ``fps``, and how they are decoded: as in the encoder ``frames``. ``model``: as in ``hf_native``,
    which sees pictures with the same tower.
    """

    processor: ClipProcessor  # type: ignore[assignment]

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = (-2,),
        frames: int = 16,
        fps: float | None = 2.0,
        least: int | None = None,
        most: int | None = None,
        backend: str = "pyav",
        timeout: float = 30.0,
        max_pixels: int = 10_000_000,
        max_seconds: float = 3600.0,
    ) -> None:
        super().__init__(model=model, layers=layers, max_pixels=max_pixels)
        reading = VideoReading(
            frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
        )
        self.processor = ClipProcessor(clip_patching(model, self.vision.config, least, most), reading)

    def forward(self, **inputs: Tensor) -> Features:
        """Collated clips -> layers float[N, most P, D], extra ``times`` float[N, most T]."""
        found = super().forward(patches=inputs["patches"], grids=inputs["grids"])
        return replace(found, extras={"times": inputs["times"].float()})


def clip_patching(model: str, config: Any, least: int | None, most: int | None) -> ClipPatching:
    """How clips are cut for the tower with this configuration, by the video processor of the folder ``model``."""
    own = load_processor(AutoVideoProcessor, model, "a clip")
    return tower_kind(model, config).clips(config, own, Limits(None, least, most))
