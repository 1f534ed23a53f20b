"""Conversations from a JSON-lines file in OpenAI's message form with media beside it: the project's own data format.

One line: ``{"messages": [{"role": "user", "content": "<image>\\nWhat is it?"},
{"role": "assistant", "content": "A cat."}], "image": ["0042.jpg"]}``.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

from mmllm.datasets.base import Dataset
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.messages import openai
from mmllm.messages.media import decode_url, refuse_address
from mmllm.modalities import MODALITIES
from mmllm.types import Sample


class ChatJsonl(Dataset):
    """Messages and media from ``path``, one JSON object per line; media paths are relative to ``media``.

    ``media`` defaults to the file's folder; absolute paths and ``..`` are taken as they are, this is the user's own
    data. A field is media if its name occurs as ``<name>`` in a message or is image, video, audio, graph, points or
    document: a path or a list of paths, in order of the placeholders; a path may end in a node of its graph
    (``cora.npz#17``) or a part of its clip (``#t=3,7.5``). Other fields (ids, scores) are ignored. A message's
    ``content`` is text or a list of OpenAI's parts: ``{"type": "text", "text": ...}``, ``{"type": "image_url",
    "image_url": {"url": path or data URL}}`` (``video_url``, ``audio_url`` and so on alike), ``{"type": "input_audio",
    "input_audio": {"data": base64, "format": "wav"}}``, ``{"type": "file", "file": {"file_data": path or data URL,
    "filename": "a.json"}}`` or ``{"type": "image"}`` (the next of the field, or its own ``"image"``); parts are joined
    by newlines. Only the lines' offsets are kept in memory.
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
        """Return the number of lines that are not blank."""
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of line ``index`` (blank ones not counted), named ``<path>:<line number>``."""
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
        # placeholders are looked for in all of it at once, whatever form its contents have
        text = str(row["messages"])
        words = [key for key in row if key != "messages" and (key in MODALITIES or f"<{key}>" in text)]
        try:
            fields = {key: [self._located(item) for item in _items(key, row[key])] for key in words}
            parts = openai.assemble(openai.read_turns(row["messages"]), self._locate, fields=fields)
        except (SampleError, MediaError) as error:
            raise SampleError(f"{name}: {error}") from error
        return Sample(name, *parts)

    def _locate(self, part: openai.MediaPart) -> Path | bytes:
        """Find the item of a part; in a file it can only be written as text."""
        if not isinstance(part.item, str):
            raise SampleError(f"message {part.message} has a part of type {part.type} without its url")
        return self._located(part.item, "input_audio" if part.type == "input_audio" else "a data URL")

    def _located(self, item: str, name: str = "a data URL") -> Path | bytes:
        """Return a path inside the folder of the media, or the bytes of a data URL; nothing comes from a network."""
        refuse_address(item)
        return decode_url(item, name) if item.startswith("data:") else self._media / item


def _items(key: str, value: Any) -> list[str]:
    """Return a media field as a list: it is one path, a list of them, or null for none."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise SampleError(f"{key} is {value!r}; it is a path or a list of paths")
    return values


def _index(path: Path) -> tuple[array[int], array[int]]:
    """Return byte offset and line number (from 1) of every line that is not blank."""
    # arrays, not lists: 8 bytes a number, so that files of many million lines fit
    offsets, numbers = array("Q"), array("Q")
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    return offsets, numbers
