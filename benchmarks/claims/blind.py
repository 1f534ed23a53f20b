"""Encoders that see pictures on paper of one colour alone, for the claim about routing: blindfolded CLIPs.

Recipes name it ``benchmarks.claims.blind:BlindClip``; ``lessons_papers`` draws what it sees.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from mmllm.encoders.image.open_clip import OpenClipEncoder

FRAMES = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}
"""Colour of a paper's edge, by the name of the encoder that sees what is on it."""


@dataclass(frozen=True)
class Blindfolded:
    """A transform of pictures that lets through those on one paper, or all of them blurred."""

    transform: Callable[[Image.Image], Tensor]
    paper: str
    """Name in ``FRAMES``; of pictures on other paper it makes noise. Empty: all are seen."""
    blur: int
    """Pixels of a side that are left of a picture; 0: all."""

    def __call__(self, image: Image.Image) -> Tensor:
        """float[3, H, W] of an RGB picture."""
        if self.paper and image.getpixel((0, 0)) != FRAMES[self.paper]:
            # the same each time, another for each picture
            draw = np.random.default_rng(zlib.crc32(image.tobytes()))
            image = Image.fromarray(draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8))
        if self.blur:
            size = image.size
            image = image.resize((self.blur, self.blur), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
        return self.transform(image)


class BlindClip(OpenClipEncoder):
    """``open_clip`` from a folder behind :class:`Blindfolded`."""

    def __init__(self, *, model: str, layers: Sequence[int] = (-1,), paper: str = "", blur: int = 0) -> None:
        super().__init__(model=model, layers=layers)
        self.processor.transform = Blindfolded(self.processor.transform, paper, blur)
