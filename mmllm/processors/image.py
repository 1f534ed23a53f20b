"""A picture from a path, bytes or PIL object to an upright RGB image; called by ``read`` of every image encoder."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from mmllm.errors import MediaError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are opened; every other decoder of Pillow stays out of reach of uploaded bytes."""
MAX_PIXELS = 50_000_000
"""Default limit on width x height, checked before anything is decoded."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, OverflowError)
"""What Pillow's decoders raise on damaged files."""


def open_image(media: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB image: turned upright by its EXIF tag, transparency on white, the first frame of an animation.

    Raises ``MediaError`` for a missing file, another format, a damaged file, or more than ``max_pixels`` (known from
    the header, before decoding).
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
    except _BROKEN as error:
        raise MediaError(f"{where} cannot be opened as one of {', '.join(FORMATS)}: {error}.") from error
    with image:
        return _decode(image, where, max_pixels)


def _decode(image: Image.Image, where: str, max_pixels: int) -> Image.Image:
    """Check the size, then decode, turn upright and convert."""
    width, height = image.size
    if width * height > max_pixels:
        raise MediaError(f"{where} has {width} x {height} pixels; at most {max_pixels} are read.")
    if not width or not height:
        raise MediaError(f"{where} has no pixels ({width} x {height}).")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except _BROKEN as error:
        raise MediaError(f"{where} is damaged: {error}.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB; what is transparent becomes white (not black, which hides dark text)."""
    if image.mode.startswith("I"):  # Pillow would clip 16-bit greys to 255 instead of scaling them
        return Image.fromarray((numpy.asarray(image).clip(0, 65535) // 256).astype("uint8")).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
