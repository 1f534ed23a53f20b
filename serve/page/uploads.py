"""Files that a question shows: how each is sent to a model, and what the page checks itself before it is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image, ImageOps

from serve.client import Card, ServerFault, file_part

FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
MAX_PIXELS = 50_000_000
SIDE = 900
"""Longest side of a picture that the page draws, in pixels."""


@dataclass(frozen=True)
class Upload:
    """A file of a question."""

    name: str
    modality: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        """Return what names its content wherever it is kept."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def part(self) -> dict[str, Any]:
        """Return the file as a part of a message; ServerFault for an image that is none."""
        if self.modality != "image":
            return file_part(self.name, self.data, self.modality)
        kind = FORMATS[str(opened(self.name, self.data).format)]
        url = f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def upload_of(card: Card, name: str, data: bytes, node: int | None = None) -> Upload:
    """Return a file as the model of ``card`` takes it; ServerFault where it does not.

    ``node``: of a graph, the one that the question is about.
    """
    modality = card.modality(name)
    if modality is None:
        taken = ", ".join(card.endings) or "none, it reads text only"
        raise ServerFault(f"{name} is no file that this model takes; it takes: {taken}.")
    if modality == "graph" and node is not None:
        data = about(name, data, node)
    return Upload(name, modality, data)


def about(name: str, data: bytes, node: int) -> bytes:
    """Return a graph that is about one of its nodes; ServerFault where it is no graph, or has no such node."""
    try:
        graph = json.loads(data)
        n_nodes = len(graph["nodes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServerFault(f'{name} is no graph: JSON with a list of "nodes" and one of "edges" is.') from error
    if not 0 <= node < n_nodes:
        raise ServerFault(f"{name} has no node {node}; its {n_nodes} nodes are 0 to {n_nodes - 1}.")
    return json.dumps({**graph, "target": node}).encode()


def opened(name: str, data: bytes) -> Image.Image:
    """Return an image whose header was read and checked; ServerFault for what is no usable image."""
    try:
        image = Image.open(io.BytesIO(data), formats=list(FORMATS))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(name) from error
    if image.width * image.height > MAX_PIXELS:
        raise ServerFault(f"{name} holds {image.width} x {image.height} pixels; make it smaller.")
    return image


def picture(name: str, data: bytes, side: int = SIDE) -> Image.Image:
    """Return an image upright, its longest side at most ``side`` pixels; ServerFault where it cannot be read."""
    image = opened(name, data)
    try:
        # a JPEG is decoded at the next larger of the sizes that it holds, not whole
        image.draft("RGB", (side, side))
        small = ImageOps.exif_transpose(image)
        small.thumbnail((side, side))
        return small.convert("RGBA" if small.has_transparency_data else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(name) from error


def png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def url_of(data: bytes) -> str:
    """Return a PNG file as an address that holds it.

    Streamlit serves a picture only while a run that drew it is the last: one that a click ended before leaves a hole.
    """
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _unreadable(name: str) -> ServerFault:
    known = ", ".join(FORMATS.values())
    return ServerFault(f"{name} is not an image that can be read; use one of: {known}.")
