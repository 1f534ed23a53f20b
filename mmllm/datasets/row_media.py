"""Media as rows of data hold them: a path, a data URL, base64, ``{"bytes", "path"}``, bytes, or a list of these."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmllm.datasets.containers.json_rows import unpacked
from mmllm.errors import MediaError, SampleError, shortened
from mmllm.messages.media import decode_url, refuse_address
from mmllm.messages.openai import BOUNDS, CUT, FRAMES
from mmllm.modalities import MODALITIES, modality_of
from mmllm.types import Stored

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{60,}={0,2}\s*")
"""Text that is base64 if it is no path: a path so long has a dot or another sign in it."""
_URL = tuple(f"data:{known.declared}" for known in MODALITIES.values() if known.declared)
# first three bytes of JPEG, PNG, GIF, RIFF (WebP, WAV, AVI), Ogg, FLAC, ID3 and EBML
_ENCODED = tuple(base64.b64encode(head).decode() for head in (
    b"\xff\xd8\xff", b"\x89PN", b"GIF", b"RIF", b"Ogg", b"fLa", b"ID3", b"\x1a\x45\xdf"
))  # fmt: skip
_LONGEST, _LONGEST_NAME = 4096, 255
"""Characters of a path, and bytes of a name in it: a longer text is no path."""
_LISTED, _FIELDS = 8, 16
"""Items of a list, and fields of an object, that are looked at for media."""


class RowMedia:
    """Finds the items of media fields; nothing comes from a network."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where relative paths start."""
        self._folder = folder

    def items(self, field: str, value: Any) -> list[Any]:
        """Return the items of a field, none for null or an empty list; SampleError or MediaError where it holds else.

        Each is a path, bytes or a :class:`~mmllm.types.Stored`.
        """
        value = unpacked(value)
        # an empty text is how tables write that there is none
        values = [] if value is None or value == "" else value if isinstance(value, list | tuple) else [value]
        if field in ("video", "videos") and len(values) > 1 and all(map(_is_photograph, values)):
            raise SampleError(f"{field} holds pictures, {shortened(values)}; {FRAMES}")
        return [self.item(one, field) for one in values if one is not None]

    def item(self, value: Any, name: str) -> Any:
        """Return one item; ``name`` is what errors call it."""
        bounds = next((word for word in BOUNDS if isinstance(value, Mapping) and value.get(word) is not None), None)
        if bounds is not None:
            raise SampleError(f"{name} has {bounds}; {CUT}")
        value = _inner(value)
        if isinstance(value, Stored | bytes):
            return value
        if not isinstance(value, str) or not value:
            raise SampleError(_no_item(value, name))
        refuse_address(value)
        if value[:5].lower() == "data:":
            return decode_url(value, "input_audio" if name == "input_audio" else "a data URL")
        if value[:7].lower() == "file://":
            return self._folder / unquote(value[len("file://") :])
        path = self._folder / value
        if _BASE64.fullmatch(value) and not _is_file(path):
            return _decoded(value, name)
        if len(value) > _LONGEST or any(
            len(part.encode(errors="replace")) > _LONGEST_NAME for part in value.split("/")
        ):
            raise SampleError(f"{name} holds {shortened(value)}, which is too long for a path and no base64")
        return path

    def holds(self, value: Any, beyond: Collection[str] = (), there: bool = True) -> bool:
        """Whether a value is media or has some in it: bytes, a data URL, base64, the path of a media file.

        ``beyond``: items as texts; a path that is one of them does not count. ``there``: the file must be there.
        """
        for one in _leaves(value):
            if isinstance(one, Stored | bytes):
                return True
            if isinstance(one, str) and (_is_encoded(one) or self._is_media_file(one, beyond, there)):
                return True
        return False

    def _is_media_file(self, text: str, beyond: Collection[str], there: bool) -> bool:
        # the ending first: a file is looked for in few rows
        name = _media_name(text)
        if name is None or "://" in name:
            return name is not None and not there
        path = self._folder / name
        return str(path) not in beyond and (_is_file(path) or not there)


def names_media(value: Any) -> str | None:
    """Return the first picture, clip or sound that a value names by path or address, here or not; None: it has none."""
    for one in _leaves(value):
        if isinstance(one, str) and not any(sign.isspace() for sign in one.strip()) and (name := _media_name(one)):
            # a graph or a document has the ending of any other file, and so has a transport stream of TypeScript
            if modality_of(name) in ("image", "video", "audio") and not name.lower().endswith(".ts"):
                return one
    return None


def _leaves(value: Any) -> Iterator[Any]:
    """Values inside of lists and objects, JSON in texts among them: the first few of each, since all are alike."""
    try:
        value = unpacked(value)
    except SampleError:  # a key twice, in a text that nothing reads
        return
    if isinstance(value, Mapping):
        for one in islice(value.values(), _FIELDS):
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value[:_LISTED]:
            yield from _leaves(one)
    else:
        yield value


def _media_name(text: str) -> str | None:
    """Return a text without what follows its #, if its ending is that of a media file."""
    if len(text) > _LONGEST:
        return None
    for name in (text.rpartition("#")[0], text.partition("?")[0] if "://" in text else text):
        if "." in name and modality_of(name):
            return name
    return None


def _is_encoded(text: str) -> bool:
    """Whether a text is a data URL of media, or base64 that begins as one of their files."""
    encoded = text.startswith(_ENCODED) and _BASE64.fullmatch(text[:400]) is not None
    return encoded or text[:16].lower().startswith(_URL)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a file system's names, or with a zero in it
        return False


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise MediaError(f"{name} is neither a file nor base64 that can be read ({error}): {text[:40]}...") from error


def _inner(value: Any) -> Any:
    """Return what a mapping of the ``datasets`` library or a part holds; any other value as it is."""
    if not isinstance(value, Mapping):
        return value
    if "bytes" in value:
        return value["bytes"] if value["bytes"] is not None else value.get("path")
    if not value.get("path") and value.get("array") is not None:
        return value
    return value.get("path", value.get("url")) if {"path", "url"} & value.keys() else value


def _no_item(value: Any, name: str) -> str:
    """The sentence about a value that is no item."""
    start = f"{name} holds {shortened(value)}"
    if isinstance(value, Mapping) and "array" in value:
        return (
            f"{start}, samples that the datasets library has decoded, which are not read; save the column as files: "
            'dataset.cast_column("audio", datasets.Audio(decode=False)), or write the samples as WAV'
        )
    if isinstance(value, list | tuple) and value and all(map(_is_photograph, value)):
        return f"{start}; {FRAMES}"
    return (
        f"{start}; it is a path, a data URL, base64, {{'bytes', 'path'}} or a list of these; where it is no media, "
        f"write ignore: [{name}]"
    )


def _is_photograph(value: Any) -> bool:
    """Whether a value is the path of a picture that cannot move."""
    return isinstance(value, str) and len(value) <= _LONGEST and value.lower().endswith((".jpg", ".jpeg", ".png"))
