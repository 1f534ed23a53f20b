"""Media items as users hand them over: a path, a URL, bytes, a picture, an array; each becomes what an encoder reads.

``openai.py`` calls it for Python's ``chat(image=...)``; training data reads its data URLs by ``decode_url``. What a
server accepts is narrower and checked in ``serving/media.py``.
"""

from __future__ import annotations

import base64
import json
import operator
import struct
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mmllm.errors import MediaError
from mmllm.modalities import MODALITIES

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

FORMS = {
    "image": ", or a PIL image or an array [H, W], [H, W, 3] or [H, W, 4] of uint8 or of floats in 0..1",
    "video": "; its encoders read files, so write frames of an array as mp4 first",
    "audio": ", or (samples, samples per second)",
    "graph": ', or a dict {"nodes": ["text", ...], "edges": [[0, 1], ...]}',
    "points": ", or an array [P, 3]",
    "document": "; of a text these are text.encode()",
}
"""Modality -> end of the sentence "give a path, a file:// or data: URL, or the bytes of a file"."""


def read_item(modality: str, value: Any) -> Any:
    """Return what the encoder of ``modality`` reads: a ``Path``, ``bytes``, a PIL image or an array of points.

    Args:
        modality: a name of ``MODALITIES``; of one that is not there, objects are handed on as they are.
        value: a path (``str`` or ``Path``; a graph's may end in ``#17``, a video's in ``#t=3,7.5``), a ``file://`` or
            base64 ``data:`` URL, the bytes of a file; an image also as a PIL image or an array, a sound as
            (samples, samples per second), a graph as a dict, points as an array.

    Raises:
        MediaError: none of these; an address on a network, which is never fetched; an array of another form.
    """
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, PathLike):
        return Path(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if modality not in MODALITIES or (modality == "image" and _is_picture(value)):
        return value
    if modality == "audio" and isinstance(value, tuple) and len(value) == 2:
        return wav(_array("sound", value[0]), value[1])
    if modality == "graph" and isinstance(value, Mapping):
        try:
            return json.dumps(value).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise MediaError(
                f"a graph cannot be written as JSON ({error}); give {{'nodes': [...], 'edges': [...]}}"
            ) from error
    if modality in ("image", "points") and hasattr(value, "__array__"):
        array = _array(MODALITIES[modality].noun, value)
        return picture(array) if modality == "image" else array
    raise MediaError(
        f"no {MODALITIES[modality].noun} can be made of a value of type {type(value).__name__}; give a path, a file:// "
        f"or data: URL, or the bytes of a file{FORMS[modality]}"
    )


def decode_url(url: str, name: str = "a data URL") -> bytes:
    """Return the bytes of a base64 ``data:`` URL; MediaError calls it ``name``."""
    head, _, data = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise MediaError(f"{name} cannot be read: it is not base64")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise MediaError(f"{name} cannot be read: {error}") from error


def refuse_address(url: str) -> None:
    """Raise MediaError for an address on a network: nothing is ever fetched."""
    if url[:8].lower().startswith(("http://", "https://")):
        raise MediaError(f"{url[:80]} is not fetched; download the media and give their paths")


def picture(array: np.ndarray) -> Image.Image:
    """Return uint8 or float (0..1) [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as an image; MediaError for all else."""
    import numpy as np
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise MediaError(f"the array of an image has the shape {list(array.shape)}; it is [H, W], [H, W, 3] or 4")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also where one is no number
            raise MediaError(f"the floats of an image are in {low:g}..{high:g}; they are in 0..1, or uint8 in 0..255")
        array = (array.astype(np.float64) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"the array of an image is {array.dtype}; it is uint8 in 0..255 or floats in 0..1")
    return Image.fromarray(np.ascontiguousarray(array))


def wav(samples: np.ndarray, rate: Any) -> bytes:
    """Return samples [n] or [n, channels] (floats in -1..1, or int16, int32) at ``rate`` per second as a WAV file.

    32-bit floats, written by hand: libsndfile would put the time of day into the file, so that equal sounds differ.
    MediaError for all else.
    """
    import numpy as np

    try:
        rate = operator.index(rate)
    except TypeError as error:
        raise MediaError(
            f"a sound is (samples, samples per second), and a {type(rate).__name__} is no number of samples per second"
        ) from error
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim not in (1, 2) or not samples.size or channels > len(samples) or rate < 1:
        raise MediaError(
            f"samples of the shape {list(samples.shape)} at {rate} per second are no sound; they are [n] or "
            "[n, channels]"
        )
    if samples.dtype.kind == "f":
        data = samples.astype("<f4").tobytes()
    elif samples.dtype in (np.int16, np.int32):
        # by the size of the smallest number, 2**15 or 2**31, as decoders do: then -1 is reached and 1 is not
        data = (samples / -float(np.iinfo(samples.dtype).min)).astype("<f4").tobytes()
    else:
        raise MediaError(f"the samples of a sound are {samples.dtype}; they are floats in -1..1, int16 or int32")
    # "fmt ": 16 bytes long, format 3 (IEEE floats), 32 bits a sample
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    head = struct.pack("<4sI4s", b"RIFF", 4 + len(form) + 8 + len(data), b"WAVE")
    return head + form + struct.pack("<4sI", b"data", len(data)) + data


def _of_text(text: str) -> Path | bytes:
    """Return the path or the bytes that a text names."""
    refuse_address(text)
    if text[:5].lower() == "data:":
        return decode_url(text)
    if text[:7].lower() == "file://":
        try:
            url = urlparse(text)
        except ValueError as error:
            raise MediaError(f"{text[:80]} is no file:// URL ({error})") from error
        return Path(unquote(url.path) + (f"#{url.fragment}" if url.fragment else ""))
    path = Path(text)
    try:
        path.exists()
    except OSError as error:  # too long for a name: a text that was meant as the content
        raise MediaError(f"{text[:40]!r}... is no path ({error.strerror}); give content as bytes") from error
    return path


def _is_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _array(noun: str, value: Any) -> np.ndarray:
    """Return any array on the CPU (of torch, jax, a list of numbers) as numpy's."""
    import numpy as np

    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MediaError(f"the array of a {noun} cannot be read: {error}") from error
