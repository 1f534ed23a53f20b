"""Media of a request: data URLs are checked (form, size, format, pixels); images are decoded, the rest stays bytes.

Everything a client sends arrives here before anything else touches it. The order of the checks is: count, length of the
base64 text, header of the file, pixels, decoding; so a picture that is too large costs its header only. What is no
image goes on to its encoder's ``read``, which has limits of its own (and decodes video in a process that can be ended).
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmllm.errors import MediaError
from mmllm.modalities import MODALITIES

if TYPE_CHECKING:
    from mmllm.recipe.models import Serve

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are decoded. Pillow opens far more (JPEG 2000, EPS, TIFF); those decoders never see a client's bytes."""

MAX_ASPECT = 200
"""Longest side over shortest side: beyond it, resizing to a square encoder would blow the long side up."""


@dataclass(frozen=True)
class Limits:
    """Limits on what one request may bring."""

    max_images: int = 8
    max_files: int = 4
    """Videos, sounds, graphs, ... of one modality per request."""
    max_seconds: float = 600.0
    """Length of one video or sound in seconds."""
    max_pixels: int = 12_582_912
    """Pixels of one image: width times height before decoding. 4096 x 3072 holds what phones take, decodes in about
    0.2 s and takes 50 MB."""
    max_request_pixels: int = 50_331_648
    """Pixels of all images of the request."""
    max_body: int = 33_554_432
    """Bytes of the whole request body."""
    max_waiting: int = 8
    """Requests that may wait while one is answered; one more is told to come back later."""
    max_new_tokens: int = 512
    """New tokens when the request names no number."""

    @classmethod
    def of(cls, options: Serve) -> Limits:
        """Return what a recipe's ``serve`` section says."""
        return cls(
            max_images=options.max_images,
            max_pixels=options.max_pixels,
            max_request_pixels=4 * options.max_pixels,
            max_files=options.max_files,
            max_seconds=options.max_seconds,
            max_body=options.max_body,
            max_new_tokens=options.max_new_tokens,
        )

    def most(self, modality: str) -> int:
        """Return how many items of one modality a request or a conversation of the terminal may hold."""
        return self.max_images if modality == "image" else self.max_files


def read_images(urls: Sequence[str], limits: Limits) -> tuple[Image.Image, ...]:
    """Decode the images of one request, in order; MediaError names the one at fault by its number from 1."""
    check_count("image", len(urls), limits)
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
    # decoded only when the headers of all were within the limits
    return tuple(load(image, f"Image {number}") for number, image in enumerate(opened, 1))


def read_files(modality: str, urls: Sequence[str], limits: Limits) -> tuple[bytes, ...]:
    """Decode the files of one modality (not images), in order; MediaError names the one at fault by its number."""
    check_count(modality, len(urls), limits)
    noun = MODALITIES[modality].noun.capitalize()
    names = [f"{noun} {number}" for number in range(1, len(urls) + 1)]
    files = [decode_url(url, name, limits.max_body, modality) for url, name in zip(urls, names, strict=True)]
    for data, name in zip(files, names, strict=True):
        check_header(modality, data, name, limits)
    return tuple(files)


def check_count(modality: str, count: int, limits: Limits) -> None:
    """Raise MediaError where there are more items of one modality than a request may bring."""
    most, plural = limits.most(modality), MODALITIES[modality].plural
    if count > most:
        raise MediaError(f"{count} {plural} were sent; this server takes at most {most} per request.")


def check_header(modality: str, data: bytes, name: str, limits: Limits) -> None:
    """Raise MediaError where a file does not begin as its modality's do, so that no decoder has to find out.

    A sound must be one that libsndfile opens and its header must not be over ``max_seconds``: nothing else may get at
    it in the server's own process. A video's length is known to its encoder only (``Inputs.check_seconds``).
    """
    known = MODALITIES[modality]
    seconds = 0.0
    readable = known.begins(data)
    if readable and modality == "audio":
        import soundfile  # here: most models hear nothing

        try:
            found = soundfile.info(io.BytesIO(data))
            seconds = found.frames / found.samplerate
        except (soundfile.LibsndfileError, ZeroDivisionError):
            readable = False
    if not readable:
        raise MediaError(f"{name} is not a {known.noun} that can be read; send a {', '.join(known.endings)} file.")
    if seconds > limits.max_seconds:
        raise MediaError(
            f"{name} lasts {seconds:.0f} s; at most {limits.max_seconds:g} s are read, so send less of it."
        )


def decode_url(url: str, name: str, max_bytes: int, modality: str = "image") -> bytes:
    """Return the bytes of a ``data:...;base64,`` URL. Nothing is ever fetched: any other address is a MediaError."""
    known = MODALITIES[modality]
    head, comma, text = url.partition(",")
    if not url[:5].lower() == "data:":
        raise MediaError(
            f"{name} is not a data URL: this server fetches no addresses and opens no files, "
            f"send the {known.noun} as {known.example}... instead."
        )
    kind, *options = head[5:].lower().split(";")
    if not comma or not known.takes(kind) or not options or options[-1].strip() != "base64":
        raise MediaError(f"{name} has a malformed data URL; the form is {known.example}<base64 of the file>.")
    # base64 writes 3 bytes as 4 letters and fills the last group up; checked before anything is decoded
    if len(text) > max_bytes * 4 // 3 + 4:
        raise MediaError(f"{name} is larger than {max_bytes} bytes.")
    try:
        # some clients break the text into lines, which validate=True refuses
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"{name} is not valid base64.") from None
    if not data:
        raise MediaError(f"{name} is empty.")
    return data


def open_bytes(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Open the image in ``data``: its header is read and its size checked, its pixels are not decoded yet."""
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


def open_path(path: Path, limits: Limits, modality: str = "image") -> Image.Image | bytes | Path:
    """Read a file of the user at the terminal, under the same limits: an image decoded, the rest as bytes.

    A graph stays a path, which may be a folder's or end in the node it is about (``cora#17``). MediaError names the
    path.
    """
    name = f"{path}"
    if modality == "graph":
        return path
    if not path.is_file():
        endings = ", ".join(MODALITIES[modality].endings)
        raise MediaError(f"{name} is not a file; give the path of a {endings} file.")
    if path.stat().st_size > limits.max_body:
        raise MediaError(f"{name} is larger than {limits.max_body} bytes.")
    data = path.read_bytes()
    if modality == "image":
        return load(open_bytes(data, name, limits.max_pixels), name)
    check_header(modality, data, name, limits)
    return data
