"""How media look to people and to a model, asked of the server: previews, what an encoder is given, attention over it.

The chat page's, beside ``client.py``; no part of OpenAI's API.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from serve.client import Server, ServerFault, post

Pictures = tuple[tuple[str, bytes], ...]
"""Pairs of a caption and a PNG file."""


@dataclass(frozen=True)
class Preview:
    """A media item as the server shows it."""

    caption: str
    pictures: Pictures = ()
    text: str = ""


@dataclass(frozen=True)
class Map:
    """Attention over one picture of an item, or over a stretch of its time."""

    caption: str
    picture: bytes | None
    """As the encoder was given it."""
    weights: list[list[float]]
    """Rows of columns; one row where the places have no second axis."""


@dataclass(frozen=True)
class Attention:
    """Attention of the tokens of a word over the media that the conversation shows."""

    text: str
    """The tokens that were looked at."""
    share: float
    """Of all attention, what lies on media: 0 to 1."""
    items: tuple[tuple[str, tuple[Map, ...]], ...]
    """Pairs of what an item is called and the maps over it."""


def preview(server: Server, part: dict[str, Any]) -> Preview:
    """Ask how the server shows a media part; ServerFault where it cannot read it."""
    body = _asked(server, "/preview", {"part": part}, "preview")
    try:
        return Preview(body["caption"], _pictures(body["pictures"]), body["text"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _other(server, "preview") from error


def seen(server: Server, model: str, part: dict[str, Any]) -> list[Preview]:
    """Ask what each encoder of a model is given of a media part; ServerFault where that cannot be said."""
    body = _asked(server, "/seen", {"model": model, "part": part}, "view")
    try:
        return [Preview(one["caption"], _pictures(one["pictures"]), one["text"]) for one in body["views"]]
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _other(server, "view") from error


def attention(server: Server, request: dict[str, Any]) -> Attention:
    """Ask where a word of an answer looks; ServerFault where that cannot be said.

    ``request``: ``model``, ``messages``, ``answer``, and its letters from ``start`` to before ``end``.
    """
    body = _asked(server, "/attention", request, "attention")
    try:
        items = tuple(
            (item["name"], tuple(Map(one["caption"], _png(one["url"]), one["weights"]) for one in item["maps"]))
            for item in body["items"]
        )
        return Attention(body["text"], float(body["share"]), items)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _other(server, "attention") from error


def _asked(server: Server, path: str, body: dict[str, Any], noun: str) -> dict[str, Any]:
    """Return the answer of a path that only servers of this project have."""
    try:
        return post(server, path, body)
    except ServerFault as error:
        if error.status == 404 and error.code is None:
            raise _other(server, noun) from error
        raise


def _other(server: Server, noun: str) -> ServerFault:
    return ServerFault(f"{server.address} answered with no {noun}; is it another version of this project?")


def _pictures(found: list[dict[str, str]]) -> Pictures:
    return tuple((one["caption"], base64.b64decode(one["url"].partition(",")[2], validate=True)) for one in found)


def _png(url: str | None) -> bytes | None:
    return None if url is None else base64.b64decode(url.partition(",")[2], validate=True)
