"""Questions whose answers are known, from a file of rows: what decisions are calibrated by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mmllm.datasets.containers.base import Rows
from mmllm.datasets.containers.json_rows import unpacked
from mmllm.datasets.containers.opening import open_rows
from mmllm.datasets.row_media import RowMedia
from mmllm.errors import MediaError, MmllmError, SampleError, shortened
from mmllm.serving.requests.decisions import Question
from mmllm.types import Message, Sample

FORM = (
    'a row is {"question": "Is there a dog?", "answer": "yes", "image": "a.png"}, with "options": [...] or '
    '"levels": [...] where the answer is one of them'
)
_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
_FIELDS = ("question", "answer", "options", "levels", "id", "kind")


@dataclass(frozen=True)
class Known:
    """One question."""

    sample: Sample
    """Its evidence: the media of its row."""
    question: Question
    right: int
    """Place of the right answer among ``question.options``."""


def read_known(path: str, keys: Collection[str]) -> tuple[list[Known], Sequence[Path]]:
    """The questions of a file that ``data:`` reads, and the files they lie in; ``keys`` are those of the run's media.

    Without ``options`` and ``levels`` the answer is yes or no, and the question a predicate.

    Raises:
        MmllmError: a row has another form, media that the run does not take, or an answer that is none of its own.
    """
    try:
        rows = open_rows(path)
    except MmllmError as error:
        raise MmllmError(f"calibrate: {str(error).rstrip('.')}; {FORM}.") from error
    return list(_read(rows, RowMedia(rows.folder), keys)), rows.files()


def _read(rows: Rows, media: RowMedia, keys: Collection[str]) -> Iterator[Known]:
    for number in range(len(rows)):
        try:
            row = rows[number]
            question, right = _question(row)
            yield Known(_sample(f"known:{number + 1}", row, media, keys), question, right)
        except (MmllmError, SampleError, MediaError) as error:
            raise MmllmError(f"calibrate: {rows.label(number)}: {str(error).rstrip('.')}; {FORM}.") from error


def _sample(name: str, row: Mapping[str, Any], media: RowMedia, keys: Collection[str]) -> Sample:
    unread = [key for key, value in row.items() if key not in (*_FIELDS, *keys) and media.holds(value)]
    if unread:
        raise MmllmError(f"it has media in {unread[0]}, and the run takes {', '.join(keys) or 'none'}")
    shown = {key: tuple(media.items(key, row[key])) for key in keys if key in row}
    shown = {key: items for key, items in shown.items() if items}
    for items in shown.values():
        for item in items:
            if isinstance(item, Path) and not item.is_file():
                raise MmllmError(f"there is no file {item}")
    places = "\n".join(f"<{key}>" for key, items in shown.items() for _ in items)
    return Sample(name, (Message("user", places),), shown)


def _question(row: Mapping[str, Any]) -> tuple[Question, int]:
    text, answer = row.get("question"), row.get("answer")
    options, levels = unpacked(row.get("options")), unpacked(row.get("levels"))
    if options is not None and levels is not None:
        raise MmllmError("it has options and levels; keep one")
    listed = options if options is not None else levels
    body: dict[str, Any] = {"type": "predicate", "instructions": text}
    if options is not None:
        body |= {"type": "choice", "choices": [{"value": one} for one in _list(options)]}
    if levels is not None:
        body |= {"type": "score", "levels": [{"label": one} for one in _list(levels)]}
    try:
        question = _QUESTION.validate_python(body)
    except ValidationError as error:
        raise MmllmError(f"its question cannot be put: {error.errors()[0]['msg']}") from error
    answers = ["yes", "no"] if listed is None else list(listed)
    said = str(answer).strip().lower() if listed is None else answer
    if said not in answers:
        raise MmllmError(f"it has the answer {shortened(answer)}; it is one of {', '.join(map(str, answers))[:200]}")
    return question, answers.index(said)


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list | tuple):
        raise MmllmError(f"it has the options {shortened(found)}; they are a list of texts")
    return list(found)
