"""The one parser of OpenAI's message form: a message's parts become text with placeholders, and media in their order.

Training data (``datasets/chat.py``), the API's requests (``serving/conversation.py``) and Python (``chat.py``)
are read by it. They differ in where an item may come from and what is refused of it: the ``locate`` of ``assemble``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from mmllm.errors import MediaError, SampleError, shortened
from mmllm.messages import placeholders
from mmllm.modalities import MODALITIES, MODALITY_OF
from mmllm.types import Message

ROLES: Mapping[str, str] = {role: role for role in ("system", "user", "assistant")}
"""Role as written -> role of the message."""
REQUEST_ROLES: Mapping[str, str] = {**ROLES, "developer": "system"}
"""The same for requests and Python: ``developer`` is what OpenAI's newer clients call the system."""

PART_TYPES = ("text", "input_audio", "file", *(name for key in MODALITIES for name in (f"{key}_url", key)))
"""Types of parts that are read."""


FRAMES = "lists of frames are not read; make a clip of them: ffmpeg -framerate N -pattern_type glob -i '*.jpg' clip.mp4"
"""End of the sentence about a video that is given as pictures."""


BOUNDS = ("video_start", "video_end", "start", "end")
"""Words by which data say which part of a clip they mean (Qwen's utilities, lists of moments)."""
CUT = "parts of clips are written behind the path, in seconds: clip.mp4#t=1,2.5"
"""End of the sentence about them."""


@dataclass(frozen=True)
class MediaPart:
    """One media item of a message."""

    modality: str
    type: str
    """Type of the part as written: ``image_url``, ``input_audio``."""
    item: Any
    """Path or URL as written (the base64 of ``input_audio`` as a data URL), from Python also an object; None: the next
    item of the modality's field beside the messages."""
    message: int
    """Number of the message, from 1."""


@dataclass(frozen=True)
class Turn:
    """One message, its parts understood and its media not yet looked at."""

    role: str
    content: tuple[str | MediaPart, ...]
    """Texts and media in their order, each on a line of its own in the message's text."""


def read_turns(messages: Iterable[Any], roles: Mapping[str, str] = ROLES) -> Iterator[Turn]:
    """Parse messages: dicts in OpenAI's form (content is a text or a list of parts) or ``Message`` objects.

    Raises:
        SampleError: names the number of the message, what was found there and what is known.
    """
    for number, raw in enumerate(messages, 1):
        found: dict[str, Any] = {"role": raw.role, "content": raw.text} if isinstance(raw, Message) else raw
        if not isinstance(found, Mapping):
            raise SampleError(
                f"message {number} is of type {type(found).__name__}; a message is {{'role': ..., 'content': ...}} or "
                "a Message"
            )
        role = found.get("role")
        if not isinstance(role, str) or role not in roles:
            raise SampleError(f"message {number} has the role {shortened(role)}; known: {', '.join(roles)}")
        content = found.get("content")
        if isinstance(content, str):
            yield Turn(roles[role], (content,))
        elif isinstance(content, list | tuple):
            yield Turn(roles[role], tuple(read_part(part, number) for part in content))
        else:
            raise SampleError(f"message {number} has no content; it is a text or a list of parts")


def read_part(part: Any, message: int = 1) -> str | MediaPart:
    """Parse one part of message number ``message``; a text part becomes its text. SampleError as ``read_turns``."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "input_audio":
        return MediaPart("audio", kind, _sound_url(part.get(kind), message), message)
    if kind == "file":
        return _file_part(part.get(kind), message)
    modality = kind.removesuffix("_url") if isinstance(kind, str) else None
    if modality not in MODALITIES:
        raise SampleError(f"message {message} has a part of type {shortened(kind)}; known: {', '.join(PART_TYPES)}")
    bounds = next((word for word in BOUNDS if part.get(word) is not None), None)
    if bounds is not None:
        raise SampleError(f"message {message} has a part of type {kind} with {bounds}; {CUT}")
    item = _item(part, str(kind), kind == modality)
    if item is None and kind == modality and part.get("source") is not None:
        item = _source_url(part["source"], str(kind), message)
    if modality == "video" and isinstance(item, list | tuple):
        raise SampleError(f"message {message} has a part of type {kind} with a list; {FRAMES}")
    if item is None and kind != modality:  # the bare {"type": "image"} alone may stand for the next of its field
        raise SampleError(f"message {message} has a part of type {kind} without its url")
    return MediaPart(modality, str(kind), item, message)


def _item(part: Mapping[str, Any], kind: str, bare: bool) -> Any:
    """Return what a part of ``kind`` shows; None where it says nothing, as tables fill in what a part does not have.

    ``bare``: a part of the name of its modality, which transformers' chat templates write with ``url``, ``path`` or
    ``base64`` beside it, and Qwen2-Audio's with ``audio_url``.
    """
    words = (kind, f"{kind}_url", "url", "path", "base64") if bare else (kind,)
    for word in words:
        item = part.get(word)
        if isinstance(item, Mapping):
            held = any(value is not None for value in item.values())
            item = item["url"] if item.get("url") is not None else item if bare and held else None
        if item is not None:
            return item
    return None


def _source_url(source: Any, kind: str, message: int) -> Any:
    """Return what the ``source`` of a part in Anthropic's form shows, its base64 as a data URL."""
    given = source if isinstance(source, Mapping) else {}
    if given.get("type") == "base64" and isinstance(given.get("data"), str):
        return f"data:{given.get('media_type')};base64,{given['data']}"
    if given.get("type") == "url" and isinstance(given.get("url"), str):
        return given["url"]
    raise SampleError(
        f"message {message} has a part of type {kind} with the source {shortened(source)}; of Anthropic's sources "
        "base64 (media_type, data) and url are read"
    )


def file_modality(filename: str, url: str, modality: Any = None) -> str:
    """Return the modality of a file: ``modality``, or what the ending of its name and the data URL's media type say.

    Raises:
        MediaError: they disagree or say nothing; nothing is guessed from the bytes.
    """
    if modality is not None:
        if not isinstance(modality, str) or modality not in MODALITIES:
            raise MediaError(f"the modality {str(modality)[:40]!r} is unknown; known: {', '.join(MODALITIES)}")
        return modality
    # behind "data:"; no media type that is known is longer
    kind = url[5:40].lower()
    declared = {name for name, known in MODALITIES.items() if known.declared and kind.startswith(known.declared)}
    ending = filename.rpartition(".")[2].lower()
    declared |= {MODALITY_OF[ending]} if ending in MODALITY_OF else set()
    if len(declared) > 1:
        raise MediaError(f"filename and media type disagree ({', '.join(sorted(declared))}); send modality")
    if not declared:
        raise MediaError(f"send modality ({', '.join(MODALITIES)}) or a filename with a known ending")
    return declared.pop()


def join(lines: Iterable[str]) -> str:
    """Return the text of a message: its texts and placeholders, each on a line of its own."""
    return "\n".join(lines)


def assemble(
    turns: Iterable[Turn],
    locate: Callable[[MediaPart], Any],
    key: Callable[[str], str] = str,
    fields: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[tuple[Message, ...], dict[str, tuple[Any, ...]]]:
    """Return the messages with placeholders ``<key>``, and media by key in the order of their placeholders.

    Args:
        turns: the messages; each is taken when the one before it is done.
        locate: gives the item of a part that has one of its own.
        key: modality -> placeholder key; by default they are the same.
        fields: key -> items given beside the messages. Placeholders typed in a text and parts without an item of their
            own take the next one; those that nothing takes come last, so that their count shows.
    """
    media = _MediaOrder(fields or {})

    def text_of(part: str | MediaPart, role: str) -> str:
        if isinstance(part, str):
            return media.take(Message(role, part))
        placeholder = key(part.modality)
        if part.item is None:
            return media.take(Message("user", f"<{placeholder}>"))
        return media.add(placeholder, locate(part))

    messages = tuple(Message(turn.role, join([text_of(part, turn.role) for part in turn.content])) for turn in turns)
    return messages, media.in_order()


class _MediaOrder:
    """Media in the order of their placeholders, whether they stand in a field or inside a part."""

    def __init__(self, fields: Mapping[str, Sequence[Any]]) -> None:
        self._left = {key: list(items) for key, items in fields.items()}
        self._ordered: dict[str, list[Any]] = {key: [] for key in fields}

    def take(self, message: Message) -> str:
        """Return the text as it is; its placeholders take the next items of their fields."""
        for key, left in self._left.items():
            n_places = placeholders.count(message, key)
            self._ordered[key] += left[:n_places]
            del left[:n_places]
        return message.text

    def add(self, key: str, item: Any) -> str:
        """Return the placeholder of an item that stands inside a part."""
        self._ordered.setdefault(key, []).append(item)
        return f"<{key}>"

    def in_order(self) -> dict[str, tuple[Any, ...]]:
        """Return all items, those that no placeholder took last."""
        every = {key: (*items, *self._left.get(key, ())) for key, items in self._ordered.items()}
        return {key: items for key, items in every.items() if items}


def _sound_url(value: Any, message: int) -> str:
    """Return the file inside an ``input_audio`` part as a data URL."""
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, str):
        raise SampleError(f"message {message} has a part of type input_audio without its data")
    return f"data:audio/{value.get('format')};base64,{data}"


def _file_part(value: Any, message: int) -> MediaPart:
    """Parse what a ``file`` part holds; a path needs no ``filename`` beside it."""
    item = value.get("file_data") if isinstance(value, Mapping) else None
    if item is None:
        raise SampleError(f"message {message} has a part of type 'file' without its file_data")
    written = str(fspath(item)) if isinstance(item, str | PathLike) else ""
    url, path = (written, "") if written[:5].lower() == "data:" else ("", written)
    try:
        modality = file_modality(str(value.get("filename") or path), url, value.get("modality"))
    except MediaError as error:
        raise SampleError(f"message {message} has a part of type 'file' of unknown modality: {error}") from error
    return MediaPart(modality, "file", item, message)
