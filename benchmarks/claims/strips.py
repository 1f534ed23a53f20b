"""Frames written as arrays, for the claims about adapters inside encoders: quick to read, seen by a real image encoder.

Recipes name it ``benchmarks.claims.strips:Strips``; `lessons_adapted` writes what it reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mmllm.encoders.video.frames import FramesEncoder
from mmllm.processors.base import Item
from mmllm.processors.video import VideoProcessor


class StripProcessor(VideoProcessor):
    """Reads arrays uint8[F, H, W, 3] of the encoder's own size; frame n stands at n seconds."""

    def read(self, media: str | Path | bytes) -> Item:
        """One strip -> what :class:`VideoProcessor` gives."""
        assert not isinstance(media, bytes)
        frames = torch.from_numpy(np.load(media))
        return {"pixels": frames.permute(0, 3, 1, 2) / 127.5 - 1, **self.measure(media)}

    def measure(self, media: str | Path | bytes) -> Item:
        """``times`` of as many frames as every strip has."""
        return {"times": torch.arange(self.frames, dtype=torch.float64)}


class Strips(FramesEncoder):
    """``frames`` with .npy files instead of videos, see :class:`StripProcessor`.

    Pixels become -1 .. 1, as the miniature ViT was trained. With ``frames: 1`` it reads pictures.
    """

    processor_class = StripProcessor
