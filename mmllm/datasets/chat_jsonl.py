"""Conversations from a JSON-lines file in OpenAI's message form with media beside it: the project's own data format.

One line: ``{"messages": [{"role": "user", "content": "<image>\\nWhat is it?"},
{"role": "assistant", "content": "A cat."}], "image": ["0042.jpg"]}``.
"""

from __future__ import annotations

import base64
import json
from array import array
from pathlib import Path
from typing import Any

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError, SampleError
from mmllm.types import Message, Sample

_ROLES = ("system", "user", "assistant")
_MODALITIES = ("image", "video", "audio", "graph", "points", "document")
_PARTS = ", ".join(f"{modality}_url, {modality}" for modality in _MODALITIES)
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738"
    "550000000049454e44ae426082"
)


class ChatJsonl(Dataset):
    """Messages and media from ``path``, one JSON object per line; media paths are relative to ``media``.

    ``media`` defaults to the file's folder; absolute paths and ``..`` are taken as they are, this is the user's own
    data. A field is media if its name occurs as ``<name>`` in a message or is image, video, audio, graph, points or
    document: a path or a list of paths, in order of the placeholders; a path may end in a node of its graph
    (``cora.npz#17``) or a part of its clip (``#t=3,7.5``). Other fields (ids, scores) are ignored. A message's
    ``content`` is text or a list of OpenAI's parts: ``{"type": "text", "text": ...}``, ``{"type": "image_url",
    "image_url": {"url": path or data URL}}`` (``video_url``, ``audio_url`` and so on alike), ``{"type": "input_audio",
    "input_audio": {"data": base64, "format": "wav"}}`` or ``{"type": "image"}`` (the next of the field, or its own
    ``"image"``); parts are joined by newlines. Only the lines' offsets are kept in memory.
    """

    def __init__(self, path: str, media: str | None = None) -> None:
        self.name = str(path)
        self._path = Path(path)
        if not self._path.is_file():
            raise MmllmError(f"there is no file {path}; chat_jsonl reads one JSON object with messages per line")
        self._media = Path(media) if media is not None else self._path.parent
        if not self._media.is_dir():
            raise MmllmError(f"there is no folder {media}, where the media of {path} should be")
        self._offsets, self._numbers = _index(self._path)
        if not self._offsets:
            raise MmllmError(f"{path} holds no line")

    def __len__(self) -> int:
        """Number of lines that are not blank."""
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """The sample of line ``index`` (blank ones not counted), named ``<path>:<line number>``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._path.open("rb") as file:  # opened anew: safe from threads and after forks
            file.seek(self._offsets[index])
            line = file.readline()
        name = f"{self.name}:{self._numbers[index]}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SampleError(f"{name}: not a JSON object ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
            raise SampleError(f"{name}: no list of messages; a line is {{'messages': [...], 'image': [...]}}")
        return self._sample(name, row)

    def _sample(self, name: str, row: dict[str, Any]) -> Sample:
        text = str(row["messages"])
        fields = {key: row[key] for key in row if key != "messages" and (key in _MODALITIES or f"<{key}>" in text)}
        media = _Media(name, {key: _paths(name, key, value) for key, value in fields.items()})
        messages = tuple(_message(name, number, raw, media) for number, raw in enumerate(row["messages"], 1))
        items = {key: tuple(self._item(item) for item in found) for key, found in media.in_order().items()}
        return Sample(name, messages, items)

    def _item(self, item: str | bytes) -> Path | bytes:
        return item if isinstance(item, bytes) else self._media / item

    @classmethod
    def tiny(cls, folder: Path) -> ChatJsonl:
        """Three lines: one image, two turns of text, two images in parts."""
        (folder / "pixel.png").write_bytes(_PIXEL)
        answer = {"role": "assistant", "content": "A pixel."}
        words = [{"role": "user", "content": "Say it."}, answer, {"role": "user", "content": "Again."}, answer]
        parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Are they the same?"}]
        rows = [
            {"messages": [{"role": "user", "content": "<image>\nWhat is it?"}, answer], "image": "pixel.png"},
            {"messages": words},
            {"messages": [{"role": "user", "content": parts}, answer], "image": ["pixel.png", "pixel.png"]},
        ]
        path = folder / "chat.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return cls(str(path))


class _Media:
    """Media of one line in order of their placeholders, whether they stand in a field or inside a part."""

    def __init__(self, name: str, fields: dict[str, list[str | bytes]]) -> None:
        self.name = name
        self._left = {key: list(items) for key, items in fields.items()}
        self._ordered: dict[str, list[str | bytes]] = {key: [] for key in fields}

    def text(self, text: str) -> str:
        """A text as it is; its placeholders take the next items of their fields."""
        for key, left in self._left.items():
            n_places = text.count(f"<{key}>")
            self._ordered[key] += left[:n_places]
            del left[:n_places]
        return text

    def part(self, key: str, item: str | bytes | None) -> str:
        """The placeholder of a media part; without an item of its own it takes the next of its field."""
        if item is None:
            return self.text(f"<{key}>")
        self._ordered.setdefault(key, []).append(item)
        return f"<{key}>"

    def in_order(self) -> dict[str, list[str | bytes]]:
        """All items; those that no placeholder took come last, so that the count shows them."""
        every = {key: items + self._left.get(key, []) for key, items in self._ordered.items()}
        return {key: items for key, items in every.items() if items}


def _message(name: str, number: int, raw: Any, media: _Media) -> Message:
    """One turn from its JSON."""
    role = raw.get("role") if isinstance(raw, dict) else None
    if role not in _ROLES:
        raise SampleError(f"{name}: message {number} has the role {role!r}; known: {', '.join(_ROLES)}")
    content = raw.get("content")
    if isinstance(content, str):
        return Message(role, media.text(content))
    if not isinstance(content, list):
        raise SampleError(f"{name}: message {number} has no content; it is a text or a list of parts")
    return Message(role, "\n".join(_part(name, number, part, media) for part in content))


def _part(name: str, number: int, part: Any, media: _Media) -> str:
    """One of OpenAI's content parts as text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return media.text(part["text"])
    if kind == "input_audio":
        return media.part("audio", _sound(name, number, part.get(kind)))
    modality = kind.removesuffix("_url") if isinstance(kind, str) else None
    if modality not in _MODALITIES:
        raise SampleError(f"{name}: message {number} has a part of type {kind!r}; known: text, input_audio, {_PARTS}")
    value = part.get(kind)
    if isinstance(value, dict):
        value = value.get("url")
    if value is None and kind == modality:
        return media.part(modality, None)
    if not isinstance(value, str):
        raise SampleError(f"{name}: message {number} has a part of type {kind} without its url")
    return media.part(modality, _location(name, value))


def _sound(name: str, number: int, value: Any) -> bytes:
    """The file inside an ``input_audio`` part, which holds its bytes as base64."""
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, str):
        raise SampleError(f"{name}: message {number} has a part of type input_audio without its data")
    return _decoded(name, data, "input_audio")


def _paths(name: str, key: str, value: Any) -> list[str | bytes]:
    """A media field: one path, a list of them, or null for none."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise SampleError(f"{name}: {key} is {value!r}; it is a path or a list of paths")
    return [_location(name, item) for item in values]


def _location(name: str, url: str) -> str | bytes:
    """A path as it is, a data URL as its bytes. Nothing is fetched from a network."""
    if url.startswith(("http://", "https://")):
        raise SampleError(f"{name}: {url[:80]} is not fetched; download the media and give their paths")
    if not url.startswith("data:"):
        return url
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise SampleError(f"{name}: a data URL cannot be read: it is not base64")
    return _decoded(name, data, "a data URL")


def _decoded(name: str, data: str, what: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise SampleError(f"{name}: {what} cannot be read: {error}") from error


def _index(path: Path) -> tuple[array[int], array[int]]:
    """Byte offset and line number (from 1) of every line that is not blank."""
    offsets, numbers = array("Q"), array("Q")
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    return offsets, numbers
