"""Pictures: from a path, bytes or PIL object to an upright RGB image, and to the pixels that a model was trained on."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are opened; every other decoder of Pillow stays out of reach of uploaded bytes."""
MAX_PIXELS = 50_000_000
"""Default limit on width x height, checked before anything is decoded."""

Fit = Literal["squash", "pad", "crop", "own"]
"""Rule by which a picture that is not square is brought to a model that wants squares.

``squash``: resized to the square, nothing lost, and boxes in coordinates of 0..1 stay valid; the default.
``pad``: shape kept, borders added. ``crop``: shape kept, what is outside the centre is lost. ``own``: whatever the
image processor of the model's folder does with a whole picture; what cuts it into tiles is switched off.
"""
WHOLE: Mapping[str, bool | int] = {
    "do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False, "max_patches": 1
}  # fmt: skip
"""Settings by which image processors of transformers leave a picture in one piece."""

_SIGNATURES = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\0\0\0\x0cjP": "JPEG 2000", b"%PDF": "PDF", b"<": "HTML or SVG"}
"""First bytes of files that people take for pictures that can be read -> what they are."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, OverflowError)
"""Errors that Pillow's decoders raise on damaged files."""


class ImageProcessor(Processor):
    """Brings every picture to one size: ``pixels`` float[3, H, W], fitted and normalised as the model was trained."""

    modality = "image"
    draft: bool = False
    """Whether large JPEGs are decoded at reduced size; an attribute of the object where it is so, and of its digest."""
    prefix: int = 0
    """Class and register tokens that the encoder gives in front of the patches; of the object's digest, as above."""

    def __init__(
        self,
        transform: Callable[[Image.Image], Tensor],
        *,
        size: tuple[int, int],
        patch: tuple[int, int],
        max_pixels: int = MAX_PIXELS,
        draft: bool = False,
        prefix: int = 0,
    ) -> None:
        """Set up.

        Args:
            transform: an RGB image of any size -> float[3, H, W].
            size: height and width in pixels that it gives.
            patch: height and width of one patch in pixels.
            max_pixels: limit on width x height of a picture, checked before it is decoded.
            draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is at least twice ``size``: in less time, and
                its pixels differ a little.
            prefix: class and register tokens that the encoder gives in front of the patches.
        """
        self.transform = transform
        self.size = size
        self.patch = patch
        self.max_pixels = max_pixels
        if draft:  # runs that decode whole pictures keep the digest that they had before there was a choice
            self.draft = True
        if prefix:
            self.prefix = prefix

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture -> ``{"pixels": float[3, H, W]}``; raises ``MediaError`` where it cannot be read."""
        return {
            "pixels": self.transform(open_image(media, self.max_pixels, 2 * max(self.size) if self.draft else None))
        }

    def content(self, media: str | Path | bytes | Image.Image) -> Content | None:
        """A file, or the upright RGB pixels of an opened picture: all that the transform sees of it."""
        return content_of(media, self.max_pixels)

    @property
    def extra_tokens(self) -> int:
        """Its ``prefix``."""
        return self.prefix

    @property
    def fixed_patches(self) -> tuple[int, int]:
        """(rows, cols) of the patches of every picture."""
        return self.patches(self.size)

    def patches(self, size: Sequence[int]) -> tuple[int, int]:
        """(rows, cols) of whole patches of a picture of ``size`` (..., height, width); a rest of pixels at the right or
        bottom belongs to no patch."""
        height, width = size[-2:]
        return height // self.patch[0], width // self.patch[1]

    def grid(self, info: ItemInfo) -> tuple[int, int]:
        """(rows, cols) of whole patches; with a ``prefix`` (1, prefix + rows * cols)."""
        return self._tokens(self.patches(info["pixels"].shape))

    def fixed_grid(self) -> tuple[int, int]:
        """Every picture is brought to one size, so it has one grid."""
        return self._tokens(self.fixed_patches)

    def _tokens(self, patches: tuple[int, int]) -> tuple[int, int]:
        return (1, self.prefix + patches[0] * patches[1]) if self.prefix else patches

    def blank(self) -> Item:
        """A picture of zeros: ``{"pixels": float[3, H, W]}``."""
        return {"pixels": torch.zeros(3, *self.size)}


@dataclass(frozen=True)
class HfTransform:
    """The image processor of a folder of transformers with our ``fit``."""

    processor: Any
    size: tuple[int, int]
    """Height and width."""
    fit: str
    own_size: bool
    """Whether ``size`` is the processor's own."""

    def __call__(self, image: Image.Image) -> Tensor:
        """float[3, H, W] of an RGB image."""
        if self.fit == "own":
            return self._own(image)
        size = {"height": self.size[0], "width": self.size[1]}
        options: dict[str, Any] = {"size": size, "do_center_crop": False}
        if self.fit == "pad":
            mean = tuple(round(255 * value) for value in self.processor.image_mean)
            image = square_canvas(image, self.size, (mean[0], mean[1], mean[2]))
        elif self.fit == "crop" and self.own_size and self.processor.do_center_crop:
            # its own resizing and centre crop, as they are
            options = {}
        elif self.fit == "crop":
            image = centre(image, self.size)
        return pixels_of(self.processor(image, return_tensors="pt", **options))[0]

    def _own(self, image: Image.Image) -> Tensor:
        """What the processor itself makes of a whole picture."""
        words = {word: value for word, value in WHOLE.items() if hasattr(self.processor, word)}
        # LLaVA-NeXT's cannot be told to: of a single tile it makes the view of all of it, and that tile behind it
        cuts = hasattr(self.processor, "image_grid_pinpoints")
        one_tile = {"image_grid_pinpoints": [list(self.size)]} if cuts else {}
        found = pixels_of(self.processor([image], return_tensors="pt", **words, **one_tile))
        found = found[:, 0] if cuts else found
        if found.numel() != 3 * self.size[0] * self.size[1]:
            raise MmllmError(
                f"fit: own: the folder's image processor gives {list(found.shape)} for one picture, and its model "
                f"takes one of {self.size[0]} x {self.size[1]}; use fit: squash"
            )
        return found.reshape(3, *self.size)


def pixels_of(given: Mapping[str, Any]) -> Tensor:
    """What a processor of transformers gives as pixels: ``pixel_values``, or in Video-LLaVA ``pixel_values_images``."""
    found: Tensor = next(value for name, value in given.items() if name.startswith("pixel_values"))
    return found


def content_of(media: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Content | None:
    """A picture's file, or the upright RGB pixels of an opened one."""
    if not isinstance(media, Image.Image):
        return of_file(media)
    image = open_image(media, max_pixels)
    return Content(data=image.tobytes(), words=f"RGB {image.width} x {image.height}")


def check_fit(fit: str, own: bool = False) -> None:
    """Raise MmllmError for a word that is none of ``Fit``; ``own``: whether the model has a processor of its own."""
    known = [word for word in get_args(Fit) if own or word != "own"]
    if fit not in known:
        raise MmllmError(f'fit: "{fit}" is unknown; known: {", ".join(known)}.')


def open_image(
    media: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS, draft: int | None = None
) -> Image.Image:
    """An RGB image: turned upright by its EXIF tag, transparency on white, the first frame of an animation.

    Raises ``MediaError`` for a missing file, another format, a damaged file, or more than ``max_pixels`` (known from
    the header, before decoding). ``draft``: sides of which this many pixels are enough, for JPEGs.
    """
    if isinstance(media, Image.Image):
        return _decode(media, f"image {media.size[0]}x{media.size[1]}", max_pixels)
    where = f"image of {len(media)} bytes" if isinstance(media, bytes) else f"image {media}"
    source = io.BytesIO(media) if isinstance(media, bytes) else Path(media)
    if isinstance(source, Path) and not source.is_file():
        raise MediaError(f"{where} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks below
            image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{where} has too many pixels; at most {max_pixels} are read.") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{where} cannot be opened as one of {', '.join(FORMATS)}{_looks_like(source)}.") from error
    except _BROKEN as error:
        raise MediaError(f"{where} cannot be opened as one of {', '.join(FORMATS)}: {error}.") from error
    with image:
        return _decode(image, where, max_pixels, draft)


def _decode(image: Image.Image, where: str, max_pixels: int, draft: int | None = None) -> Image.Image:
    """Check the size, then decode, turn upright and convert."""
    width, height = image.size
    if width * height > max_pixels:
        raise MediaError(f"{where} has {width} x {height} pixels; at most {max_pixels} are read.")
    if not width or not height:
        raise MediaError(f"{where} has no pixels ({width} x {height}).")
    try:
        if draft is not None:
            image.draft(None, (draft, draft))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), where)
    except _BROKEN as error:
        raise MediaError(f"{where} is damaged: {error}.") from error


def _looks_like(source: io.BytesIO | Path) -> str:
    """What a file of another format is, and how to go on: the end of a sentence."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            start = file.read(16)
    else:
        start = source.getvalue()[:16]
    if not start:
        return ": it is empty"
    known = [name for signature, name in _SIGNATURES.items() if start.startswith(signature)]
    known += ["AVIF or HEIC"] if start[4:8] == b"ftyp" else []
    return f": it looks like {known[0]}; save it as one of them" if known else ": it is none, or damaged"


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Any mode -> RGB; what is transparent becomes white (not black, which hides dark text)."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _of_wide_greys(image, where)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _of_wide_greys(image: Image.Image, where: str) -> Image.Image:
    """Greys of 16 bits, scaled from 0..65535 to 0..255: Pillow would clip them to 255.

    Raises:
        MediaError: greys that nobody says the range of: they would come out black or white.
    """
    values = numpy.asarray(image)
    low, high = float(values.min()), float(values.max())
    # below 4096: of a sensor of 12 bits or fewer, of which 16 grey levels near black would be left
    if image.mode == "F" or low < 0 or high > 65535 or 0 < high < 4096:
        raise MediaError(
            f"{where} holds greys from {low:g} to {high:g}, which say nothing of what is white; scale them to 0..65535 "
            "(16 bits) or 0..255 (8 bits) before."
        )
    return Image.fromarray((values // 256).astype("uint8")).convert("RGB")


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
