"""What a folder's own image processor makes of a picture, where it gives several things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError


@dataclass(frozen=True)
class OwnPixels:
    """One output of an image processor of transformers."""

    processor: Any
    size: tuple[int, int]
    """Height and width that its model takes."""
    output: str
    """Its name there: ``pixel_values``."""

    def __call__(self, image: Image.Image) -> Tensor:
        """float[3, H, W] of an RGB image; MmllmError where the processor gives another size."""
        found: Tensor = self.processor([image], return_tensors="pt")[self.output]
        if found.shape[-2:] != self.size:
            raise MmllmError(
                f"the folder's image processor gives {list(found.shape)} for one picture, and its model takes "
                f"{self.size[0]} x {self.size[1]} pixels; its settings are not supported"
            )
        return found.reshape(3, *self.size)
