"""Documents whose fields are known: examples to be shown, and what an extraction is scored by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmllm.datasets.containers.json_rows import unpacked
from mmllm.datasets.containers.opening import open_rows
from mmllm.datasets.row_media import RowMedia
from mmllm.errors import MmllmError, shortened
from mmllm.extraction.pictures import PictureHash, read_hash
from mmllm.modalities import MODALITY_OF

FORM = (
    'a row is {"image": "a.png", "answer": {...}}, with paths beside the file; in a folder the fields of a.png are in '
    "a.json"
)


@dataclass(frozen=True)
class Record:
    """One document."""

    image: Path
    answer: dict[str, Any]


def read_records(path: Path, flag: str) -> list[Record]:
    """All documents of a file of rows, or of a folder; ``flag`` is what errors call it.

    Raises:
        MmllmError: nothing is there, or a row has another form.
    """
    try:
        found = list(_of_folder(path) if path.is_dir() else _of_rows(path))
    except (MmllmError, OSError, ValueError) as error:
        raise MmllmError(f"{flag} {path}: {error}; {FORM}.") from error
    if not found:
        raise MmllmError(f"{flag} {path} holds no picture with a .json beside it; {FORM}.")
    return found


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(path for path in folder.iterdir() if MODALITY_OF.get(path.suffix.lower()[1:]) == "image")


def _of_folder(folder: Path) -> Iterator[Record]:
    for image in pictures_of(folder):
        beside = image.with_suffix(".json")
        if beside.is_file():
            yield Record(image, _answer(json.loads(beside.read_text(encoding="utf-8")), beside.name))


def _of_rows(path: Path) -> Iterator[Record]:
    rows = open_rows(str(path))
    media = RowMedia(rows.folder)
    for number in range(len(rows)):
        row = rows[number]
        name = f"row {number + 1}"
        items = media.items("image", row.get("image"))
        if len(items) != 1 or not isinstance(items[0], Path):
            raise MmllmError(f"{name} has the image {shortened(row.get('image'))}; it is the path of one")
        if not items[0].is_file():
            raise MmllmError(f"{name}: there is no file {items[0]}")
        yield Record(items[0], _answer(unpacked(row.get("answer")), name))


def _answer(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MmllmError(f"{name} has the answer {shortened(value)}; it is an object")
    return value


class Examples:
    """Documents to show in front of others, found by how their pictures look."""

    def __init__(self, records: Sequence[Record], text_of: Callable[[Record], str]) -> None:
        """``text_of``: the answer as it is shown; raises MmllmError for one that may not be."""
        self._known = [(record, text_of(record), read_hash(record.image)) for record in records]

    def nearest(self, picture: PictureHash) -> tuple[Record, str] | None:
        """The record most like a picture and its text; never of the same pixels. None: there is no other.

        Of several that are as like, the first.
        """
        others = [(record, text, known) for record, text, known in self._known if known.digest != picture.digest]
        if not others:
            return None
        record, text, _ = min(others, key=lambda one: picture.distance(one[2]))
        return record, text

    @property
    def key(self) -> list[list[str]]:
        """All that an answer may depend on, for a digest."""
        return [[known.digest, text] for _, text, known in self._known]
