"""Items of questions as small pictures for a page: a picture, the middle frame of a clip, the waveform of a sound."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mmllm.types import Stored

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Colour:
    """Of a box on a picture."""

    name: str
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Drawn:
    """A box on a picture, as fractions of its width and height."""

    box: Box
    colour: Colour


WANTED = Colour("green", (31, 138, 60))
SAID = (Colour("red", (179, 38, 30)), Colour("blue", (36, 92, 200)))
SIDE = 192
"""Longest side of a picture on the page, in pixels."""


def thumbnail(modality: str, item: Any, boxes: Sequence[Drawn] = ()) -> str:
    """An ``<img>`` of an item with boxes on it, or a sentence in its place where it cannot be shown."""
    try:
        picture = _picture(modality, item)
    # whatever a reader of damaged media raises: a report is no place to stop at one
    except Exception as error:
        return f"<small>{modality} not shown: {type(error).__name__}</small>"
    if picture is None:
        return f"<small>{modality}</small>"
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    width, height = picture.size
    for one in boxes:
        left, top, right, bottom = one.box
        # what a model says may lie outside, or have its corners the other way round
        across = sorted(min(max(value, 0.0), 1.0) * (width - 1) for value in (left, right))
        down = sorted(min(max(value, 0.0), 1.0) * (height - 1) for value in (top, bottom))
        ImageDraw.Draw(picture).rectangle((across[0], down[0], across[1], down[1]), outline=one.colour.rgb, width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    small = " class=small" if max(picture.size) < SIDE // 2 else ""
    return f'<img{small} alt="{modality}" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _picture(modality: str, item: Any) -> Image.Image | None:
    content = item.load() if isinstance(item, Stored) else item
    if isinstance(content, Image.Image):
        return content.copy()
    source = io.BytesIO(content) if isinstance(content, bytes) else Path(str(content).partition("#")[0])
    if modality == "image":
        with Image.open(source) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            return picture.copy()
    if modality == "video":
        import av

        with av.open(source if isinstance(source, io.BytesIO) else str(source)) as container:
            stream = container.streams.video[0]
            if stream.duration:
                container.seek(stream.duration // 2, stream=stream)
            return next(container.decode(stream)).to_image()
    if modality == "audio":
        import soundfile

        from mmllm.drawing.plots import sound

        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
        return sound(samples.mean(axis=1), rate)
    return None
