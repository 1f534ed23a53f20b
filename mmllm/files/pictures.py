"""What the header of a picture says."""

from __future__ import annotations

from PIL import ExifTags, Image

_ON_ITS_SIDE = (5, 6, 7, 8)
"""Values of EXIF's orientation that turn a picture by a quarter."""


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture as its EXIF tag turns it; nothing is decoded."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    return (image.height, image.width) if turned else (image.width, image.height)
