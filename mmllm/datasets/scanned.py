"""Scanned documents with their texts, boxes and fields, in the files of SROIE and FUNSD; for datasets and scorers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmllm.datasets.boxes import Box
from mmllm.errors import MmllmError

SROIE_FIELDS = ("company", "date", "address", "total")


@dataclass(frozen=True)
class Text:
    """A text on a page."""

    text: str
    box: Box
    """In pixels."""


@dataclass(frozen=True)
class Field:
    """A question that a document answers."""

    question: str
    answer: Text


@dataclass(frozen=True)
class Scanned:
    """One document."""

    name: str
    image: Path
    texts: Sequence[Text]
    """Lines of a receipt, entities of a form, from top to bottom."""
    fields: Sequence[Field]


def sroie(folder: Path) -> list[Scanned]:
    """Receipts of ``box/<name>.csv``, ``key/<name>.json`` and ``img/<name>.jpg``; MmllmError where there are none."""
    return [_receipt(folder, path) for path in _files(folder / "box", "csv")]


def funsd(folder: Path) -> list[Scanned]:
    """Forms of ``annotations/<name>.json`` and ``images/<name>.png``; MmllmError where there are none."""
    found = []
    for path in _files(folder / "annotations", "json"):
        form = read_form(json.loads(path.read_text(encoding="utf-8")), path)
        texts = [_entity(one) for one in form if one["text"].strip()]
        fields = [Field(f'What is the answer to "{asked}"?', _entity(answer)) for asked, answer in linked(form)]
        found.append(Scanned(path.stem, folder / "images" / f"{path.stem}.png", texts, fields))
    return found


def read_form(content: Any, path: Path) -> list[dict[str, Any]]:
    """The entities of a FUNSD form; MmllmError where it has another form."""
    try:
        form = [dict(entity) for entity in content["form"]]
        for entity in form:
            entity["text"], entity["box"] = str(entity["text"]), [float(number) for number in entity["box"]]
            entity["label"], entity["linking"] = str(entity["label"]), list(entity["linking"])
    except (KeyError, TypeError, ValueError) as error:
        raise MmllmError(f"{path} has another form than FUNSD's ({error})") from error
    return form


def linked(form: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(text of a question, the entity that answers it) of each link between two that have a text."""
    entities = {entity["id"]: entity for entity in form}
    links = {tuple(sorted(pair)) for entity in form for pair in entity["linking"] if len(pair) == 2}
    found = []
    for pair in sorted(links):
        both = {entities[one]["label"]: entities[one] for one in pair if one in entities}
        if both.keys() == {"question", "answer"} and all(one["text"].strip() for one in both.values()):
            found.append((both["question"]["text"].strip(), both["answer"]))
    return found


def sroie_lines(path: Path) -> list[Text]:
    """The lines of a receipt, eight numbers and a text each; ValueError where one is none."""
    # a text may hold commas and quotes, so these are no quoted fields
    rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [_line(row) for row in rows]


def _files(folder: Path, ending: str) -> list[Path]:
    found = sorted(folder.glob(f"*.{ending}"))
    if not found:
        raise MmllmError(f"there is no {folder}/*.{ending}")
    return found


def _entity(entity: dict[str, Any]) -> Text:
    left, top, right, bottom = entity["box"]
    return Text(entity["text"].strip(), (left, top, right, bottom))


def _receipt(folder: Path, path: Path) -> Scanned:
    try:
        lines = sroie_lines(path)
    except ValueError as error:
        raise MmllmError(f"{path}: a line is no eight numbers and a text ({error})") from error
    key = folder / "key" / f"{path.stem}.json"
    if not key.is_file():
        raise MmllmError(f"there is no {key}")
    content = json.loads(key.read_text(encoding="utf-8"))
    given = [(name, str(content[name])) for name in SROIE_FIELDS if content.get(name)]
    found = [(name, value, _where(value, lines)) for name, value in given]
    fields = [Field(f"What is the {name}?", Text(value, box)) for name, value, box in found if box is not None]
    return Scanned(path.stem, folder / "img" / f"{path.stem}.jpg", lines, fields)


def _line(row: Sequence[str]) -> Text:
    """Four corners and the text, which may hold commas."""
    numbers = [float(number) for number in row[:8]]
    if len(numbers) < 8:
        raise ValueError(f"{len(numbers)} numbers")
    across, down = numbers[0::2], numbers[1::2]
    return Text(",".join(row[8:]).strip(), (min(across), min(down), max(across), max(down)))


def _where(value: str, lines: Sequence[Text]) -> Box | None:
    """Box of the line that holds a value, or of all lines that are parts of it; None where none is found."""
    wanted = _folded(value)
    holding = [line for line in lines if wanted and wanted in _folded(line.text)][:1]
    parts = holding or [line for line in lines if len(_folded(line.text)) > 3 and _folded(line.text) in wanted]
    if not parts:
        return None
    boxes = [one.box for one in parts]
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    return left, top, right, bottom


def _folded(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())
