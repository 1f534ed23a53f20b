"""Images of a request: data URLs are checked (form, size, format, pixels) and only then decoded to pictures.

Everything a client sends arrives here before anything else touches it. The order of the checks is: count, length of the
base64 text, header of the file, pixels, decoding; so a picture that is too large costs its header only.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmllm.types import MediaError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded. Pillow opens far more (JPEG 2000, EPS, TIFF); those decoders never see a client's bytes."""

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp")
"""Endings of files in those formats."""

MAX_ASPECT = 200
"""Longest side over shortest side: beyond it, resizing to a square encoder would blow the long side up."""


@dataclass(frozen=True)
class Limits:
    """What one request may bring."""

    max_images: int = 8
    max_pixels: int = 25_000_000
    """Per image, width times height before decoding."""
    max_request_pixels: int = 100_000_000
    """Over all images of the request."""
    max_body: int = 33_554_432
    """Bytes of the whole request body."""
    max_waiting: int = 8
    """Requests that may wait while one is answered; one more is told to come back later."""
    max_new_tokens: int = 512
    """New tokens when the request names no number."""


def read_images(urls: Sequence[str], limits: Limits) -> tuple[Image.Image, ...]:
    """Decode the images of one request, in order; MediaError names the one at fault by its number from 1."""
    if len(urls) > limits.max_images:
        raise MediaError(f"{len(urls)} images were sent; this server takes at most {limits.max_images} per request.")
    opened = []
    pixels = 0
    for number, url in enumerate(urls, 1):
        image = open_bytes(decode_url(url, f"Image {number}", limits.max_body), f"Image {number}", limits.max_pixels)
        pixels += image.width * image.height
        if pixels > limits.max_request_pixels:
            raise MediaError(
                f"The first {number} images hold {pixels} pixels together; at most "
                f"{limits.max_request_pixels} per request are decoded, so send fewer or smaller images."
            )
        opened.append(image)
    return tuple(load(image, f"Image {number}") for number, image in enumerate(opened, 1))


def decode_url(url: str, name: str, max_bytes: int) -> bytes:
    """Bytes of a ``data:image/...;base64,`` URL. Nothing is ever fetched: any other address is a MediaError."""
    head, comma, text = url.partition(",")
    if not url[:5].lower() == "data:":
        raise MediaError(
            f"{name} is not a data URL: this server fetches no addresses and opens no files, "
            "send the image as data:image/png;base64,... instead."
        )
    words = head[5:].lower().split(";")
    if not comma or not words[0].startswith("image/") or words[-1].strip() != "base64":
        raise MediaError(f"{name} has a malformed data URL; the form is data:image/png;base64,<base64 of the file>.")
    if len(text) > max_bytes * 4 // 3 + 4:
        raise MediaError(f"{name} is larger than {max_bytes} bytes.")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"{name} is not valid base64.") from None
    if not data:
        raise MediaError(f"{name} is empty.")
    return data


def open_bytes(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The image behind ``data`` with its header read and its size checked; its pixels are not decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"{name} holds more than {max_pixels} pixels; make it smaller and send it again.") from None
    except Exception:  # a hostile header can raise anything; its text may name memory or paths
        raise MediaError(f"{name} could not be read; send a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from None
    if width * height > max_pixels:
        raise MediaError(
            f"{name} holds {width} x {height} pixels; at most {max_pixels} are decoded, so make it smaller."
        )
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"{name} is {width} x {height} pixels: one side is more than {MAX_ASPECT} times the other.")
    return image


def load(image: Image.Image, name: str) -> Image.Image:
    """Decode the first frame. Colour mode and EXIF rotation stay: the encoder treats them as it did in training."""
    try:
        image.load()
    except Exception:  # a damaged body can raise anything; its text may name memory or paths
        raise MediaError(f"{name} is damaged and could not be decoded; save it again and resend it.") from None
    return image


def open_path(path: Path, limits: Limits) -> Image.Image:
    """An image file of the user at the terminal, under the same limits; MediaError names the path."""
    name = f"{path}"
    if not path.is_file():
        raise MediaError(f"{name} is not a file; give the path of a {', '.join(EXTENSIONS)} file.")
    if path.stat().st_size > limits.max_body:
        raise MediaError(f"{name} is larger than {limits.max_body} bytes.")
    return load(open_bytes(path.read_bytes(), name, limits.max_pixels), name)
