"""What a row of chat data holds and nothing reads: media under other names, words about learning; for ``chat.py``.

A model would train without them and no loss would tell, so each is an error that says where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mmllm.datasets.forms import MEDIA_FIELDS, ROLES
from mmllm.datasets.row_media import RowMedia, names_media
from mmllm.errors import SampleError
from mmllm.modalities import modality_of
from mmllm.registry import nearest
from mmllm.types import Message

_TURN = ("role", "content", "from", "value")
_LEARNED = ("weight", "loss", "train", "training")
"""Words of a message by which OpenAI's, ms-swift's and axolotl's data say that it is not learned."""
_SPOKEN = ("tool_calls", "function_call", "reasoning_content", "reasoning")
"""Words of a message with more that the assistant says."""
_INLINE = re.compile(r"<(img|image|video|audio)>\s*([^<>\n]+?)\s*</\1>")
"""A path inside the text, as the first Qwen-VL and ms-swift 1 write it."""
_GROUNDED = ("<bbox>", "<ref-object>")
_FOREIGN = re.compile(
    r"<\|(?:image|video|audio)_(?:pad|\d+)\|>|<\|vision_(?:start|end)\|>|<\|audio_(?:bos|eos)\|>|<\|AUDIO\|>"
    r"|<(?:IMG|VIDEO)_CONTEXT>|<start_of_image>|<image_soft_token>|<ImageHere>|\(<image>\./</image>\)"
)
"""Marks by which other models' templates say where media go: Qwen2-VL to 3-VL, Phi-3.5 and 4, Qwen2-Audio, InternVL,
Gemma 3, InternLM-XComposer, MiniCPM-V."""


_UNWANTED = ("label", "kto_tag")
"""Fields by which TRL's, ms-swift's and LLaMA-Factory's data for KTO say that an answer is not to be given."""


_CHOICES = ("choices", "options")
"""Fields that list the answers to choose from (ScienceQA, MMMU); VLMEvalKit's tables have a column for each letter."""


class UnreadError(SampleError):
    """A field holds what nothing reads."""


def check_turns(turns: Iterable[Any], media: RowMedia) -> None:
    """Look at messages as they are written.

    Raises:
        UnreadError: one holds media beside its text.
        SampleError: one is not to be learned, or says more than its text.
    """
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            continue
        for word, value in turn.items():
            if word in _TURN or value is None:
                continue
            says = ROLES.get(str(turn.get("role"))) == "assistant"
            if says and word in _LEARNED and value in (0, False):
                raise SampleError(
                    f"message {number} has {word}: {value!r}, and what an assistant says is always learned; leave the "
                    "conversation out, or end it before this message"
                )
            if word in _SPOKEN and value:
                raise SampleError(
                    f"message {number} has {word}, which is not read; write it into the message's text or leave it out"
                )
            if (word in MEDIA_FIELDS and value) or media.holds(value):
                raise UnreadError(
                    f'message {number} holds media in "{word}", which is not read; put them beside the messages '
                    f'("{MEDIA_FIELDS.get(word, "image")}": [...], with a placeholder in the text), or into a part of '
                    "the message"
                )


def check_wanted(row: Mapping[str, Any], ignored: Collection[str]) -> None:
    """SampleError for a row that shows an answer to stay away from."""
    for field in _UNWANTED:
        if row.get(field) is False and field not in ignored:
            raise SampleError(
                f"{field}: false marks an answer that is not wanted (KTO), and every answer here is learned; leave the "
                f"row out, or write ignore: [{field}] where it means something else"
            )


def check_choices(row: Mapping[str, Any], ignored: Collection[str]) -> None:
    """SampleError for a question whose choices stand in fields of their own: its answer may be their number."""
    found = [field for field in _CHOICES if row.get(field) and field not in ignored]
    found = found[:1] or [field for field in ("A", "B") if row.get(field) is not None and field not in ignored]
    if found and found != ["A"] and found != ["B"]:
        names = ", ".join(found)
        raise SampleError(
            f"{names} {'holds' if len(found) == 1 else 'hold'} choices, which are not read; write them into the "
            f"question and the right one into the answer, or write ignore: [{names}] where the answer needs none"
        )


def check_texts(row: Mapping[str, Any], messages: Sequence[Message], ignored: Collection[str]) -> None:
    """UnreadError where a text names media inside of tags, or has ms-swift's places for boxes."""
    for message in messages:
        inline = _INLINE.search(message.text) if message.role != "assistant" else None
        if inline is not None and names_media(inline[2]):
            key = MEDIA_FIELDS.get(inline[1], "image")
            raise UnreadError(
                f"the {message.role}'s text has {inline[0][:80]!r}, and paths inside of texts are not read; put the "
                f'path beside the messages ("{key}s": [...]) and <{key}> in its place'
            )
        foreign = _FOREIGN.search(message.text) if message.role != "assistant" else None
        if foreign is not None:
            raise UnreadError(
                f"the {message.role}'s text has {foreign[0]!r}, another model's mark of media, and here "
                "it would be text; write a placeholder (<image>) where the item belongs, and leave the rest out"
            )
        mark = next((mark for mark in _GROUNDED if mark in message.text), None)
        if mark is not None and row.get("objects") and "objects" not in ignored:
            raise UnreadError(
                f'{mark} in a text stands for an entry of "objects" (ms-swift), which is not filled in; write names '
                "and boxes into the texts (boxes: says how they are written)"
            )


def check_fields(row: Mapping[str, Any], known: Collection[str], media: RowMedia, read: Sequence[Any]) -> None:
    """UnreadError where a field holds media that nothing reads.

    Args:
        row: its fields.
        known: those that are read or left aside.
        media: finds them.
        read: items of the row that are read; in a row without any, names of media count that are not there.
    """
    found = frozenset(str(item) for item in read if not isinstance(item, bytes))
    for field, value in row.items():
        if field in known:
            continue
        held = "holds media" if media.holds(value, beyond=found) else ""
        if not held and not read and (name := names_media(value)):
            held = f"names media ({name[:80]})"
        if held:
            near = (
                modality_of((names_media(value) or "").partition("?")[0])
                or nearest(field.lower(), MEDIA_FIELDS)
                or "image"
            )
            raise UnreadError(
                f'the field "{field}" {held}, and none of that name are read; known: {", ".join(MEDIA_FIELDS)}; '
                f"write columns: {{{near}: {field}}} to read it, or ignore: [{field}]"
            )
