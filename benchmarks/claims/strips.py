"""Frames written as arrays, for the claims about adapters inside encoders: quick to read, seen by a real image encoder.

Recipes name it ``benchmarks.claims.strips:Strips``; `lessons_adapted` writes what it reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmllm.encoders.video.frames import FramesEncoder


class Strips(FramesEncoder):
    """``frames`` with arrays uint8[F, H, W, 3] of the encoder's own size in .npy files instead of videos.

    Pixels become -1 .. 1, as the miniature ViT was trained. With ``frames: 1`` it reads pictures.
    """

    def read(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """One strip -> what :class:`FramesEncoder` gives; frame n stands at n seconds."""
        assert not isinstance(media, bytes)
        frames = torch.from_numpy(np.load(media))
        return {"pixels": frames.permute(0, 3, 1, 2) / 127.5 - 1, **self.measure(media)}

    def measure(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """``times`` of as many frames as every strip has."""
        return {"times": torch.arange(self.frames, dtype=torch.float64)}
