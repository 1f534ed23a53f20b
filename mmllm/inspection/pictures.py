"""Pictures as an encoder gets them: its normalised pixels turned back into colours."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError
from mmllm.processors.image import ImageProcessor
from mmllm.processors.native.processor import NativeProcessor

_SAME = 1e-3
"""Most by which a channel of a picture of one colour may differ within itself after resizing, in normalised units."""


def denormalised(processor: ImageProcessor | NativeProcessor, pixels: Tensor) -> Image.Image:
    """Return what ``pixels`` float[3, H, W] show: the fitted and cropped picture, mean and std undone.

    Every normalisation is one line per channel, found here by what becomes of black and of white, so it holds for any
    library's transform; MediaError where the processor's is no line.
    """
    black, grey, white = (_level(processor, value) for value in (0, 51, 255))
    span = white - black
    if not (span.abs() > 0).all() or not torch.allclose(black + span / 5, grey, atol=_SAME):
        raise MediaError("its processor changes colours in a way that cannot be undone, so the picture is not shown")
    values = ((pixels.float() - black) / span * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _level(processor: ImageProcessor | NativeProcessor, value: int) -> Tensor:
    """What becomes of one grey, float[3, 1, 1]."""
    if isinstance(processor, NativeProcessor):
        patching = processor.patching
        side = patching.patch  # a picture of one patch, whose edges need no filling up
        plain = Image.new("RGB", (side, side), (value, value, value))
        made = patching.pixels(patching.patches(plain), patching.grid(side, side))
    else:
        height, width = processor.size
        made = processor.transform(Image.new("RGB", (width, height), (value, value, value))).float()
    level = made.mean(dim=(1, 2), keepdim=True)
    if not torch.allclose(made, level.expand_as(made), atol=_SAME):
        raise MediaError("its processor does not keep a plain picture plain, so the picture is not shown")
    return level
