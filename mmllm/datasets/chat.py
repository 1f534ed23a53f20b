"""Conversations as people have them: any common form of row in any common container, with media beside or inside it.

``containers`` say where rows lie, ``forms.py`` how one is written, ``row_media.py`` what its media fields hold; here
they become samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmllm.datasets.base import Dataset
from mmllm.datasets.boxes import Boxes
from mmllm.datasets.containers.opening import open_rows
from mmllm.datasets.forms import FORMS, MEDIA_FIELDS, ROLES, detect
from mmllm.datasets.row_media import RowMedia
from mmllm.datasets.unread import UnreadError, check_choices, check_fields, check_texts, check_turns, check_wanted
from mmllm.errors import MediaError, MmllmError, SampleError, shortened
from mmllm.messages import openai, placeholders
from mmllm.messages.openai import MediaPart, Turn
from mmllm.registry import nearest
from mmllm.types import Message, Sample

_LOOKED_AT = 20
"""Rows that are tried for a form before a file is said to have none: the first may be damaged."""


class Chat(Dataset):
    """Conversations from JSON, CSV, Parquet, folders, tar shards or Hugging Face datasets, in any common form.

    The form is told by the fields of the first row and is the same for all: OpenAI's ``messages`` (texts or parts),
    ``conversations`` (LLaVA, ShareGPT), ``query``/``response``, Alpaca's ``instruction``/``output``, TRL's
    ``prompt``/``completion``, ``question``/``answer``, The Cauldron's ``texts``, or a media field with ``caption`` or
    ``text``. Media stand in ``image``, ``images``, ``video``, ``audio`` and so on, or in a field whose ``<name>``
    occurs in a message: a path (a graph's may end in ``#17``, a clip's in ``#t=3,7.5``), a data URL, base64,
    ``{"bytes", "path"}``, or a list. They take the placeholders of the texts in order; where no text has one, they go
    in front of the user's first message. Of the rows only where they begin is kept in memory.
    """

    def __init__(
        self,
        path: str,
        media: str | None = None,
        form: str | None = None,
        columns: dict[str, str] | None = None,
        ignore: list[str] | None = None,
        split: str | None = None,
        config: str | None = None,
        streaming: bool = False,
        boxes: dict[str, str] | None = None,
        texts: dict[str, str] | None = None,
    ) -> None:
        """Open the rows; MmllmError where they are missing, empty or of no known form.

        Args:
            path: a file, a pattern (``shards/{000..099}.tar``, ``part-*.jsonl``), a folder, or ``hf://datasets/...``.
            media: folder that paths of media start from; default: the one the rows lie in. Absolute paths and ``..``
                are taken as they are: this is the user's own data.
            form: instead of what the first row shows.
            columns: field of the form (``image``, ``caption``) or key of a connector -> its name in the rows.
            ignore: fields that may hold media and are not to be read.
            split: of a dataset that has several; default: ``train``, or the only one.
            config: of a dataset of the hub, or in its layout, that has several.
            streaming: read a hub's Parquet where it is instead of downloading it.
            boxes: ``{from: xyxy_1, square: pad}``: how boxes in the texts are written; they are rewritten to what the
                recipe's encoder sees (``boxes.py``), as fractions or ``to: loc_tokens``. ``fit`` is the encoder's, and
                is filled in from the recipe.
            texts: placeholder -> field that says what its item is in words (a transcript, a caption), or lists that
                for several; for stages with ``distill``.
        """
        self.name = str(path)
        self._rows = open_rows(self.name, split, streaming, config)
        if media is not None and not Path(media).is_dir():
            raise MmllmError(f"there is no folder {media}, where the media of {path} should be")
        self._boxes = Boxes.of(boxes) if boxes is not None else None
        self._columns, self._ignored, self._texts = dict(columns or {}), frozenset(ignore or ()), dict(texts or {})
        self._media = RowMedia(Path(media) if media is not None else self._rows.folder)
        first = list(islice(self._readable(), _LOOKED_AT))
        self._check_columns(first)
        self.form = detect(first, self.name, form, MEDIA_FIELDS, "" if first else self._damage())
        """Name of the form that its rows have."""
        self.blocks = self._rows.blocks
        shows = any(row.get(field) is not None for row in first[:1] for field in MEDIA_FIELDS)
        self.summary = f"{len(self):,} rows, {_title(self.form, shows)} ({self._rows.kind})"
        self._try(first[:1] if self._boxes is None else first)
        if self._boxes is not None:
            # a word for another form than theirs would leave them as they are, and no loss would tell
            boxed = sum(map(self._has_boxes, first))
            self.summary += f"; {boxed or 'none'} of the first {len(first)} with boxes ({self._boxes.form})"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of a row, named as its container calls it: ``<path>:<line number>``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._rows.label(index)
        try:
            row = self._row(index)
            return Sample(name, *self._read(row), self._in_words(row))
        except (SampleError, MediaError) as error:
            raise SampleError(f"{name}: {error}") from error

    def digest(self) -> str:
        """SHA-256 (hex) of the files that hold the rows; media outside of them are left out."""
        return self._rows.digest()

    @property
    def files(self) -> Sequence[Path]:
        """Files that hold the rows."""
        return self._rows.files()

    def _row(self, index: int) -> dict[str, Any]:
        """Return a row under the names of its form."""
        row = dict(self._rows[index])
        taken = {ours: row.pop(theirs) for ours, theirs in self._columns.items() if theirs in row}
        return {**row, **taken}

    def _readable(self) -> Any:
        for index in range(len(self._rows)):
            try:
                yield self._row(index)
            except SampleError:
                continue

    def _try(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            try:
                self._read(row)
            except UnreadError as error:  # a fault of the recipe, not of one sample
                raise MmllmError(f"{self.name}: {error}") from error
            except (SampleError, MediaError):
                continue

    def _damage(self) -> str:
        try:
            self._row(0)
        except SampleError as error:
            return str(error)
        return ""

    def _read(self, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], dict[str, tuple[Any, ...]]]:
        """Messages and media of a row, boxes as the encoder sees them."""
        messages, media = self._written(row)
        return messages if self._boxes is None else self._boxes.rewrite(messages, media), media

    def _in_words(self, row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Placeholder -> what its items are in words; SampleError where a field holds something else than text."""
        found = {}
        for key, field in self._texts.items():
            value = row.get(field)
            texts = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(text, str) for text in texts):
                raise SampleError(f"{field} holds {shortened(value)}; texts of <{key}> are a text or a list of them")
            found[key] = tuple(texts)
        return {key: texts for key, texts in found.items() if texts}

    def _has_boxes(self, row: Mapping[str, Any]) -> bool:
        assert self._boxes is not None
        try:
            return self._boxes.are_in(self._written(row)[0])
        except (SampleError, MediaError):
            return False

    def _written(self, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], dict[str, tuple[Any, ...]]]:
        """Messages and media of a row as it has them."""
        check_wanted(row, self._ignored)
        if self.form == "question_answer":
            check_choices(row, self._ignored)
        raw = FORMS[self.form].read(row)
        check_turns(raw, self._media)
        turns = list(openai.read_turns(raw, ROLES))
        texts = [part for turn in turns for part in turn.content if isinstance(part, str)]
        fields: dict[str, list[Any]] = {}
        for field in row:
            key = self._key(field, row[field], texts)
            if key is not None:
                found = self._media.items(field, row[field])
                if found and key in fields:
                    raise SampleError(f"{field} and another field both hold items of <{key}>; keep one")
                if found:
                    fields[key] = found
        if self.form == "conversations":
            turns = _clips(turns, fields)
        messages, media = openai.assemble(_placed(turns, fields), self._locate, fields=fields)
        if FORMS[self.form].media and not media:
            raise SampleError(f"a {self.form} without anything that it describes")
        named = {field for field in row if any(f"<{field}>" in text for text in texts)}
        known = {*FORMS[self.form].fields, *MEDIA_FIELDS, *self._columns, *self._texts.values(), *self._ignored, *named}
        check_fields(row, known, self._media, [item for items in media.values() for item in items])
        check_texts(row, messages, self._ignored)
        return messages, media

    def _key(self, field: str, value: Any, texts: Sequence[str]) -> str | None:
        """Return the placeholder whose media a field holds; None for any other field."""
        if field in self._ignored or field in FORMS[self.form].fields:
            return None
        if field in MEDIA_FIELDS:
            return MEDIA_FIELDS[field]
        if field in self._columns:  # a connector may have any key
            return field
        named = any(f"<{field}>" in text for text in texts)
        return field if named and self._media.holds(value, there=False) else None

    def _locate(self, part: MediaPart) -> Any:
        """Find the item of a part."""
        if part.type == "input_audio":
            return self._media.item(part.item, "input_audio")
        return self._media.item(part.item, f"the part of type {part.type} in message {part.message}")

    def _check_columns(self, first: Sequence[Mapping[str, Any]]) -> None:
        """MmllmError where ``columns`` or ``texts`` names a field that no row has."""
        there = dict.fromkeys(name for index in range(min(_LOOKED_AT, len(self._rows))) for name in self._fields(index))
        for word, fields in (("columns", self._columns), ("texts", self._texts)):
            for ours, theirs in fields.items():
                if there and theirs not in there:
                    near = nearest(theirs, there)
                    hint = f'; did you mean "{near}"?' if near else ""
                    raise MmllmError(
                        f'{self.name}: {word} names the field "{theirs}" for {ours}, and its rows have '
                        f"{', '.join(there)}{hint}"
                    )

    def _fields(self, index: int) -> Sequence[str]:
        try:
            return list(self._rows[index])
        except SampleError:
            return []


def _title(form: str, shows: bool) -> str:
    if form == "conversations":
        return "LLaVA conversations" if shows else "ShareGPT conversations"
    return FORMS[form].title


def _clips(turns: Sequence[Turn], fields: Mapping[str, Sequence[Any]]) -> list[Turn]:
    """LLaVA's own data of clips and sounds write ``<image>`` for them: give a row's only media that place."""
    (key,) = fields if len(fields) == 1 else ("image",)
    if key == "image":
        return list(turns)
    asked = [Message(turn.role, part) for turn in turns for part in turn.content if isinstance(part, str)]
    places = sum(placeholders.count(message, "image") for message in asked)
    if places != len(fields[key]) or any(placeholders.count(one, key) for one in asked):
        return list(turns)

    def renamed(role: str, part: str | MediaPart) -> str | MediaPart:
        if not isinstance(part, str):
            return part
        pieces = placeholders.pieces(Message(role, part), ("image",))
        return "".join(f"<{key}>" if is_place else text for text, is_place in pieces)

    return [Turn(turn.role, tuple(renamed(turn.role, part) for part in turn.content)) for turn in turns]


def _placed(turns: Sequence[Turn], fields: Mapping[str, Sequence[Any]]) -> list[Turn]:
    """Put placeholders in front of the user's first message for the fields that have no place in any text."""
    placed: set[str] = set()
    own: set[str] = set()
    for turn in turns:
        for part in turn.content:
            if isinstance(part, MediaPart):
                placed |= {part.modality} if part.item is None else set()
                if part.item is not None:
                    own.add(part.modality)
            else:
                placed |= {key for key in fields if placeholders.count(Message(turn.role, part), key)}
    twice = own & (fields.keys() - placed)
    if twice:
        (key, *_) = sorted(twice)
        raise SampleError(
            f"{key} items stand in parts of the messages and, without a place, beside them; keep one of both"
        )
    front = [f"<{key}>" for key, items in fields.items() if key not in placed for _ in items]
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
    if not front:
        return list(turns)
    if first is None:
        raise SampleError(f"{', '.join(fields)} without a message of the user to stand in")
    turn = turns[first]
    content = (*front, *(part for part in turn.content if part != ""))
    return [*turns[:first], Turn(turn.role, content), *turns[first + 1 :]]
