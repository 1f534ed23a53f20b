"""What tools made of an answer, as things a page can show: a title, a picture or JSON or a sentence, and the places.

For the tags of ``mmllm serve --tools`` (``message["tags"]``; in a stream the last ``delta`` of a choice). Only data
URLs of pictures become pictures: an address in a tool's result stays text, and nothing is fetched for it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PICTURES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/webp;base64,")


@dataclass(frozen=True)
class Shown:
    """One task or place."""

    title: str
    """The task and what it was asked, or the kind of place."""
    places: tuple[tuple[float, ...], ...]
    """Boxes (four numbers) and points (two), as the model wrote them."""
    pictures: tuple[bytes, ...] = ()
    """Files of pictures in the tool's result."""
    text: str = ""
    """The rest of the result as JSON, or what went wrong."""


def shown(tags: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """Return what to show of an answer's tags, in its order."""
    return [_task(tag) if tag.get("type") == "task" else Shown(_title(tag), _places([tag])) for tag in tags]


def _task(tag: Mapping[str, Any]) -> Shown:
    places = _places(tag.get("places", ()))
    if tag.get("error") is not None:
        return Shown(_title(tag), places, text=str(tag["error"]))
    pictures: list[bytes] = []
    rest = _without_pictures(tag.get("result"), pictures)
    text = "" if rest is None else json.dumps(rest, ensure_ascii=False, indent=1)
    return Shown(_title(tag), places, tuple(pictures), text)


def _title(tag: Mapping[str, Any]) -> str:
    return f"{tag['task']}: {tag['text']}" if tag.get("type") == "task" else str(tag.get("type"))


def _places(tags: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, tag["numbers"])) for tag in tags)


def _without_pictures(value: Any, pictures: list[bytes]) -> Any:
    """Return a result with its pictures taken out into ``pictures``; None where nothing else is left."""
    if isinstance(value, str) and value.startswith(PICTURES):
        try:
            pictures.append(base64.b64decode(value.partition(",")[2], validate=True))
            return None
        except binascii.Error:
            return value
    if isinstance(value, Mapping):
        inner = {name: _without_pictures(one, pictures) for name, one in value.items()}
        return {name: one for name, one in inner.items() if one is not None or value[name] is None} or None
    if isinstance(value, list):
        kept = [(one, _without_pictures(one, pictures)) for one in value]
        return [left for one, left in kept if left is not None or one is None] or None
    return value
