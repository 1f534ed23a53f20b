"""The forms in which rows of chat data are written, each read into OpenAI's messages; ``chat.py`` adds the media.

Names of fields and speakers are those of LLaVA, ShareGPT, Alpaca, TRL, LLaMA-Factory, ms-swift and The Cauldron.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from mmllm.datasets.containers.json_rows import unpacked
from mmllm.errors import MmllmError, SampleError, shortened
from mmllm.modalities import MODALITIES
from mmllm.registry import nearest

Raw = dict[str, Any]
"""A message as OpenAI writes it, not yet checked."""

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Who speaks, as data write it -> role of the message."""

MEDIA_FIELDS: Mapping[str, str] = {name: key for key in MODALITIES for name in (key, f"{key.rstrip('s')}s")}
"""Field that holds media in every form -> placeholder."""


@dataclass(frozen=True)
class Form:
    """One way of writing a conversation."""

    title: str
    """As it is stated at the start."""
    needs: tuple[str, ...]
    """Fields that tell it."""
    reads: tuple[str, ...]
    """Further fields of text."""
    read: Callable[[Mapping[str, Any]], list[Raw]]
    """Row -> messages; SampleError says what is wrong with a field."""
    media: bool = False
    """Whether a row has to show something: a caption without a picture is no conversation."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of text."""
        return (*self.needs, *self.reads)


def _messages(row: Mapping[str, Any]) -> list[Raw]:
    return [*_system(row), *_turns(row, "messages")]


def _conversations(row: Mapping[str, Any]) -> list[Raw]:
    return [*_system(row), *_turns(row, "conversations")]


def _turns(row: Mapping[str, Any], field: str) -> list[Any]:
    """Turns of ``from``/``value`` as ``role``/``content``; others, and what is no mapping, as they are."""
    turns: list[Any] = []
    for turn in _listed(row, field):
        if isinstance(turn, Mapping) and "role" not in turn and "from" in turn:
            turn = {**turn, "role": turn["from"], "content": turn.get("value")}
        turns.append(turn)
    return turns


def _prompt_completion(row: Mapping[str, Any]) -> list[Raw]:
    return [*_spoken(row, "prompt", "user"), *_spoken(row, "completion", "assistant")]


def _query_response(row: Mapping[str, Any]) -> list[Raw]:
    return [*_system(row), *_history(row), _said(row, "query", "user"), _said(row, "response", "assistant")]


def _alpaca(row: Mapping[str, Any]) -> list[Raw]:
    asked = _said(row, "instruction", "user")
    if row.get("input"):
        asked["content"] += "\n" + _said(row, "input", "user")["content"]
    return [*_system(row), *_history(row), asked, _said(row, "output", "assistant")]


def _texts(row: Mapping[str, Any]) -> list[Raw]:
    """Rounds of ``user`` and ``assistant``; what else they have (their source, ratings) is about them."""
    turns: list[Raw] = []
    for number, pair in enumerate(_listed(row, "texts"), 1):
        if not isinstance(pair, Mapping) or not {"user", "assistant"} <= pair.keys():
            raise SampleError(f"round {number} of texts has no user and assistant: it is {_kind(pair)}")
        turns += [_said(pair, "user", "user"), _said(pair, "assistant", "assistant")]
    return turns


def _question_answer(row: Mapping[str, Any]) -> list[Raw]:
    return [_said(row, "question", "user"), _said(row, "answer", "assistant")]


def _caption(field: str) -> Callable[[Mapping[str, Any]], list[Raw]]:
    return lambda row: [{"role": "user", "content": ""}, _said(row, field, "assistant")]


FORMS: Mapping[str, Form] = {
    "messages": Form("messages", ("messages",), ("system",), _messages),
    "conversations": Form("conversations", ("conversations",), ("system",), _conversations),
    "prompt_completion": Form("prompts and completions", ("prompt", "completion"), (), _prompt_completion),
    "query_response": Form("queries and responses", ("query", "response"), ("history", "system"), _query_response),
    "alpaca": Form("Alpaca instructions", ("instruction", "output"), ("input", "history", "system"), _alpaca),
    "texts": Form("rounds of texts (The Cauldron, FineVision)", ("texts",), (), _texts),
    "question_answer": Form("questions and answers", ("question", "answer"), (), _question_answer),
    "caption": Form("captions", ("caption",), (), _caption("caption"), media=True),
    "text": Form("captions (text)", ("text",), (), _caption("text"), media=True),
}
"""Name -> form; a file has the first that its first rows show."""


def detect(
    rows: Iterable[Mapping[str, Any]], where: str, name: str | None, media: Collection[str], reason: str = ""
) -> str:
    """Return the name of the form that rows have; the first row that shows one decides.

    Args:
        rows: the first few, as far as they can be read.
        where: what they are of, for the error.
        name: the form that the recipe says they have, if it says so.
        media: fields of media.
        reason: why the first row cannot be read, where it cannot.

    Raises:
        MmllmError: the form is unknown, or no row shows any; names their fields and the forms.
    """
    if name is not None:
        if name not in FORMS:
            near = nearest(name, FORMS)
            hint = f'; did you mean "{near}"?' if near else ""
            raise MmllmError(f'form: "{name}" is unknown; known: {", ".join(FORMS)}{hint}')
        return name
    seen: list[str] = []
    for row in rows:
        for known, form in FORMS.items():
            # null in tables whose rows have the fields of several forms
            there = all(row.get(field) is not None for field in form.needs)
            if there and (not form.media or any(field in row for field in media)):
                return known
        seen = seen or list(row)
    shapes = "; ".join(f"{known} ({', '.join(form.needs)})" for known, form in FORMS.items())
    if not seen:
        raise MmllmError(f"{where}: no row at its beginning can be read; the first: {reason or 'it is empty'}")
    fields = ", ".join(field if len(field) <= 80 else shortened(field) for field in seen)
    meant = _meant(seen)
    raise MmllmError(
        f"{where}: rows have the fields {fields}, which is no form of chat data; known: {shapes}; "
        + (f"write columns: {{{meant}}}" if meant else "columns maps other names")
    )


def _meant(seen: Sequence[str]) -> str:
    """Return the entries of ``columns`` for fields that are of a form but for capitals and blanks around them."""
    known = {*MEDIA_FIELDS, *(field for form in FORMS.values() for field in form.fields)}
    found = {field.strip().lower(): field for field in seen if field not in known}
    return ", ".join(f"{ours}: {json.dumps(theirs)}" for ours, theirs in found.items() if ours in known - set(seen))


def _listed(row: Mapping[str, Any], field: str) -> list[Any]:
    value = unpacked(row.get(field))
    if not isinstance(value, list | tuple):
        raise SampleError(f"no list of {field}; it is {_kind(value)}")
    return list(value)


def _said(row: Mapping[str, Any], field: str, role: str) -> Raw:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # tables hold numbers as answers
    if isinstance(value, date):  # datetime is one of these
        raise SampleError(
            f"{field} is {_kind(value)}, as the datasets library reads JSON columns of dates; name the file itself as "
            "path, or save the column as text"
        )
    if not isinstance(value, str):
        raise SampleError(f"{field} is {_kind(value)}; it is a text")
    return {"role": role, "content": value}


def _spoken(row: Mapping[str, Any], field: str, role: str) -> list[Raw]:
    """A text, or messages already (TRL's conversational form)."""
    value = row.get(field)
    if isinstance(value, str) and value.startswith("[{"):
        value = unpacked(value)
    return list(value) if isinstance(value, list | tuple) else [_said(row, field, role)]


def _system(row: Mapping[str, Any]) -> list[Raw]:
    return [_said(row, "system", "system")] if row.get("system") else []


def _history(row: Mapping[str, Any]) -> list[Raw]:
    """Earlier rounds: pairs of what was asked and answered."""
    turns: list[Raw] = []
    for number, pair in enumerate(unpacked(row.get("history")) or (), 1):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise SampleError(f"round {number} of history is {_kind(pair)}; it is a pair of texts")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
