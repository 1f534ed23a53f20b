"""What all image encoders share: read one picture, know its patch grid, drop class and register tokens.

Between ``encoder.py`` (any modality) and the files that load a model of a library (``open_clip.py``, ``hf_vision.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.image import MAX_PIXELS, open_image
from mmllm.types import Features

Fit = Literal["squash", "pad", "crop"]
"""How a picture that is not square meets a model that wants squares.

``squash``: resized to the square, nothing lost, and boxes in coordinates of 0..1 stay valid; the default.
``pad``: shape kept, borders added. ``crop``: shape kept, what is outside the centre is lost.
"""


class ImageEncoder(Encoder):
    """A vision transformer over patches. Its ``forward`` takes ``pixels``: float[N, 3, H, W], normalised.

    ``fit``: see ``Fit``; ``max_pixels``: limit on width x height of a picture, checked before it is decoded.
    """

    modality = "image"
    patch: tuple[int, int]
    """Height and width of one patch in pixels."""
    size: tuple[int, int]
    """Height and width in pixels that every picture is brought to."""

    def __init__(self, *, layers: Sequence[int], fit: str, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(layers=layers)
        if fit not in get_args(Fit):
            raise MmllmError(f'fit: "{fit}" is unknown; known: {", ".join(get_args(Fit))}.')
        self.fit = fit
        self.max_pixels = max_pixels

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image of any size -> float[3, H, W], fitted and normalised as this model was trained."""
        raise NotImplementedError

    def hidden(self, pixels: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """float[N, prefix + T, D] for each index in 0..n_blocks (see ``Encoder``), prefix tokens first."""
        raise NotImplementedError

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the model."""
        raise NotImplementedError

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens in front of the patches, as the model itself declares them."""
        raise NotImplementedError

    def read(self, media: str | Path | bytes | Image.Image) -> dict[str, Tensor]:
        """One picture -> ``{"pixels": float[3, H, W]}``; raises ``MediaError`` where it cannot be read."""
        return {"pixels": self.preprocess(open_image(media, self.max_pixels))}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(rows, cols) of whole patches; a rest of pixels at the right or bottom belongs to no patch."""
        height, width = inputs["pixels"].shape[-2:]
        return height // self.patch[0], width // self.patch[1]

    def fixed_grid(self) -> tuple[int, ...]:
        """Every picture is brought to one size, so it has one grid."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    def dummy(self) -> dict[str, Tensor]:
        """A picture of zeros: ``{"pixels": float[3, H, W]}``."""
        return {"pixels": torch.zeros(3, *self.size)}

    def tiny_media(self) -> list[Any]:
        """A picture with a coloured side, the same turned, and one of another shape and colour."""
        left = Image.new("RGB", (48, 48), "white")
        left.paste((200, 30, 30), (0, 0, 24, 48))
        return [left, left.rotate(180), Image.new("RGB", (60, 30), "navy")]

    def forward(self, **inputs: Tensor) -> Features:
        """``pixels`` float[N, 3, H, W] -> layers of float[N, rows * cols, D] in raster order."""
        pixels = inputs["pixels"]
        with self.laid_out(TokenLayout((1,) * len(pixels), self.grid(inputs), self.prefix)):
            return self.features(pixels, self.layers)

    def features(self, pixels: Tensor, layers: Sequence[int]) -> Features:
        """What ``forward`` gives, of these layers; whoever calls it says what the rows are (:meth:`laid_out`)."""
        weight = next(self.parameters())
        pixels = pixels.to(device=weight.device, dtype=weight.dtype)
        grid = self.grid({"pixels": pixels})
        # Frozen weights build no graph; a stage that trains this encoder or what is inside it gets one.
        with torch.set_grad_enabled(self.learns()):
            states = self.hidden(pixels, self.resolve(self.n_blocks, layers))
        tokens = self.prefix + grid[0] * grid[1]
        if any(state.shape[1] != tokens for state in states):
            raise MmllmError(
                f"the encoder gives {states[0].shape[1]} tokens for {pixels.shape[-2]} x {pixels.shape[-1]} pixels, "
                f"but declares {self.prefix} prefix tokens and {grid[0]} x {grid[1]} patches; it is not supported."
            )
        mask = torch.ones(pixels.shape[0], grid[0] * grid[1], dtype=torch.bool, device=pixels.device)
        return Features(dict(zip(layers, (s[:, self.prefix :] for s in states), strict=True)), mask, grid)


def square_canvas(image: Image.Image, size: tuple[int, int], fill: tuple[int, int, int]) -> Image.Image:
    """The image centred on a canvas of ``fill`` that has the shape (height, width) of ``size``; not resized."""
    width, height = _around(image, size, max)
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest middle part that has the shape (height, width) of ``size``; not resized."""
    width, height = _around(image, size, min)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _around(image: Image.Image, size: tuple[int, int], choose: Callable[[float, float], float]) -> tuple[int, int]:
    """Width and height of the smallest box around (max) or largest box inside (min) the image with size's shape."""
    unit = choose(image.width / size[1], image.height / size[0])
    return max(1, round(unit * size[1])), max(1, round(unit * size[0]))
