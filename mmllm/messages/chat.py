"""From a question in Python, ``chat("What is it?", image="a.png")`` or messages, to the Sample that is answered.

Between the Python face and the Generator; messages are read by ``openai.py``, media by ``media.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.messages import placeholders as places
from mmllm.messages.media import read_item
from mmllm.messages.openai import REQUEST_ROLES, MediaPart, Turn, assemble, read_turns
from mmllm.modalities import MODALITIES, refusal
from mmllm.types import Message, Sample

LOG = logging.getLogger(__name__)


def to_sample(
    messages: str | Sequence[Mapping[str, Any] | Message],
    *,
    keys: Mapping[str, str],
    media: Mapping[str, Any] | None = None,
    name: str = "chat",
    placeholders: Mapping[str, str] | None = None,
) -> Sample:
    """Return a question in Python as a Sample: a text or messages, and media by keyword.

    Args:
        messages: a question of the user, or dicts in OpenAI's form and ``Message`` objects, the user's last. Media
            inside parts may be whatever ``media.read_item`` takes.
        keys: modality -> placeholder's key, for what the model reads; of several of one modality the first.
        media: keyword (``image``, ``images`` or a placeholder's key) -> an item or a list of them. They take the
            placeholders ``<key>`` of the texts in order; where no text has one, they go in front of the last message.
        name: of the sample, in front of every error.
        placeholders: key -> modality of all placeholders that the model has; by default those of ``keys``.

    Raises:
        SampleError: names the message or keyword at fault and what is known; or the model lacks the modality.
    """
    asked = [Message("user", messages)] if isinstance(messages, str) else messages
    if not isinstance(asked, Sequence):
        raise SampleError(f"{name}: found a {type(asked).__name__}; give a question or a list of messages")
    try:
        turns = list(read_turns(asked, REQUEST_ROLES))
        if not turns or turns[-1].role != "user":
            found = f"is the {turns[-1].role}'s" if turns else "is missing"
            raise SampleError(f"the last message {found}; it must be the user's, since it is what gets answered")
        known = {key: modality for modality, key in keys.items()} if placeholders is None else placeholders
        fields = _fields(media or {}, keys, known)
        parts = assemble(_placed(turns, fields, keys), _locate, keys.__getitem__, fields)
    except MmllmError as error:
        raise SampleError(f"{name}: {error}") from error
    _note_others(parts[0], {*known, *keys.values()}, keys)
    return Sample(name, *parts)


def _note_others(messages: Sequence[Message], own: Collection[str], keys: Mapping[str, str]) -> None:
    """Log placeholders of modalities that the model lacks: they stay text, as in training data, and may be meant so."""
    for modality in MODALITIES:
        if modality not in own and any(places.count(message, modality) for message in messages):
            LOG.warning("<%s> is read as text: the model %s", modality, refusal(modality, keys))


def _locate(part: MediaPart) -> Any:
    """Return the item of a part, which in Python may be any object that stands for media."""
    try:
        return read_item(part.modality, part.item)
    except MediaError as error:
        raise SampleError(f"message {part.message}: {error}") from error


def _fields(media: Mapping[str, Any], keys: Mapping[str, str], placeholders: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return keyword media as items by placeholder; one may have a modality that the project does not know."""
    fields: dict[str, list[Any]] = {}
    for word, value in media.items():
        # a key of the recipe first: it may be called like a modality that it does not have
        modality = placeholders.get(word)
        if modality is None:
            names = (word, word.removesuffix("s"))
            modality = next((name for name in names if name in MODALITIES or name in keys), None)
            if modality is None:
                raise SampleError(
                    f"{word!r} is neither a setting (max_new_tokens, temperature, top_p, seed, stop) nor media; known: "
                    f"{', '.join(MODALITIES)}, of each one item or a list"
                )
            if modality not in keys:
                raise SampleError(f"{word}: the model {refusal(modality, keys)}")
        key = word if word in placeholders else keys[modality]
        items = value if isinstance(value, list) else [] if value is None else [value]
        try:
            fields.setdefault(key, []).extend(read_item(modality, item) for item in items)
        except MediaError as error:
            raise SampleError(f"{word}: {error}") from error
    return fields


def _placed(turns: Sequence[Turn], fields: Mapping[str, Sequence[Any]], keys: Mapping[str, str]) -> list[Turn]:
    """Put placeholders in front of the last message for the fields that no placeholder of any message names."""
    named: set[str] = set()
    for role, part in [(turn.role, part) for turn in turns for part in turn.content]:
        if isinstance(part, str):
            named |= {key for key in fields if places.count(Message(role, part), key)}
        elif part.modality not in keys:
            raise SampleError(f"message {part.message}: the model {refusal(part.modality, keys)}")
        elif part.item is None:
            named.add(keys[part.modality])
    front = [f"<{key}>" for key, items in fields.items() if key not in named for _ in items]
    last = turns[-1]
    return [*turns[:-1], Turn(last.role, (*front, *last.content))]
