"""Fields and line items of documents, answered as JSON: F1 of the cells, rows matched as well as they can be.

Each key of a document names a table: a list has a row for each of its objects or values, anything else is one row.
Cells are compared column by column, and rows paired so that most agrees (an assignment problem): neither the order of
rows nor that of keys counts, but a value in the wrong row does, unlike in the F1 of a bag of fields (Donut, Kim et al.
2022, arXiv 2111.15664). These are the properties that GLIRM asks for (Cesista et al. 2024, arXiv 2405.20245):
subtasks apart, cell by cell, free of order. That paper's own formula is not followed line by line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import numpy as np

from mmllm.errors import MmllmError, shortened
from mmllm.evaluation.metrics.boxes import iou
from mmllm.evaluation.metrics.text import edit_distance

Variant = Literal["exact", "folded", "edit", "iou"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
Row = dict[str, Any]
_ONE = ""
"""Name of the only table of a document that is a list, and of the only column of plain values."""


@dataclass(frozen=True)
class Counts:
    """Of one document, or of several together."""

    matched: float
    said: int
    """Cells of the answer."""
    wanted: int

    def __add__(self, other: Counts) -> Counts:
        """Those of both."""
        return Counts(self.matched + other.matched, self.said + other.said, self.wanted + other.wanted)

    @property
    def precision(self) -> float:
        """Share of what was said that is right; 0 where nothing was said."""
        return self.matched / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Share of what is wanted that was said."""
        return self.matched / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """Of both; 1 where nothing is wanted and nothing was said."""
        return 2 * self.matched / (self.said + self.wanted) if self.said + self.wanted else 1.0


def record_of(text: str) -> Any:
    """The first JSON object or list in an answer, also in a code fence; None where there is none."""
    decoder = json.JSONDecoder()
    for start, sign in enumerate(text):
        if sign in "{[":
            try:
                return decoder.raw_decode(text, start)[0]
            except (ValueError, RecursionError):
                continue
    return None


def counts_of(said: Any, wanted: Any, variant: str = "exact") -> Counts:
    """Cells of two records and how much of them agrees.

    ``exact``: equal texts without outer blanks, as SROIE's third task compares them; ``folded``: without case and
    double blanks too; ``edit``: one less the normalised edit distance of the folded texts; ``iou``: cells are boxes
    ``[left, top, right, bottom]``, by their overlap. Empty cells count for nothing.
    """
    one, other = _tables(said, variant), _tables(wanted, variant)
    like = _LIKE[variant]
    matched = sum(_matched(one[name], other[name], like) for name in one.keys() & other.keys())
    return Counts(matched, _cells(one), _cells(other))


def field_f1(prediction: str, answers: Sequence[str], variant: str = "exact") -> float:
    """Best F1 against the accepted records, each JSON as a text."""
    return max((_counted(prediction, answer, variant).f1 for answer in answers), default=0.0)


def counts_of_set(pairs: Iterable[tuple[str, str]], variant: str = "exact") -> Counts:
    """Of all documents of a set together, from (answer, the record that is wanted)."""
    return sum((_counted(said, wanted, variant) for said, wanted in pairs), Counts(0.0, 0, 0))


def checked(found: Any, variant: str = "exact") -> str:
    """A record as JSON; MmllmError where it is none, or one without any cell."""
    value = record_of(found) if isinstance(found, str) else found
    if not isinstance(value, Mapping | list) or not _cells(_tables(value, variant)):
        kind = "boxes [left, top, right, bottom]" if variant == "iou" else "values"
        raise MmllmError(
            f'it has the answer {shortened(found)}; it is an object of {kind}, {{"total": "9.00", "items": [{{...}}]}}'
        )
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1 << 14)
def _counted(prediction: str, answer: str, variant: str) -> Counts:
    # an interval asks for the same documents a hundred times
    return counts_of(record_of(prediction), json.loads(answer), variant)


# ---- cells


def _tables(record: Any, variant: str) -> dict[str, list[Row]]:
    """Name of a table -> its rows of cells that are not empty."""
    named = record if isinstance(record, Mapping) else {_ONE: record}
    found = {str(key): list(_rows(value, variant)) for key, value in named.items()}
    return {key: rows for key, rows in found.items() if rows}


def _rows(value: Any, variant: str) -> Iterator[Row]:
    """The rows of a table; one value alone is a list of one."""
    for one in value if isinstance(value, list) and not _is_cell(value, variant) else [value]:
        row = dict(_inside(_ONE, one, variant))
        if row:
            yield row


def _inside(name: str, value: Any, variant: str) -> Iterator[tuple[str, Any]]:
    """Cells of a value with their columns: of objects and lists inside a row, names and numbers joined by dots."""
    if _is_cell(value, variant):
        yield name, value
    elif isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, one in pairs:
            yield from _inside(f"{name}.{key}", one, variant)


def _is_cell(value: Any, variant: str) -> bool:
    if variant == "iou":
        return isinstance(value, list) and len(value) == 4 and all(_is_number(one) for one in value)
    return isinstance(value, str | int | float) and str(value).strip() != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells(tables: Mapping[str, Sequence[Row]]) -> int:
    return sum(len(row) for rows in tables.values() for row in rows)


# ---- agreement


def _matched(said: Sequence[Row], wanted: Sequence[Row], like: Callable[[Any, Any], float]) -> float:
    """Most that rows agree when each is paired with one at most."""
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    if not said or not wanted:
        return 0.0
    weights = np.array([[_agreement(one, other, like) for other in wanted] for one in said])
    return float(weights[linear_sum_assignment(weights, maximize=True)].sum())


def _agreement(one: Row, other: Row, like: Callable[[Any, Any], float]) -> float:
    return sum(like(one[column], other[column]) for column in one.keys() & other.keys())


def _equal(one: Any, other: Any) -> float:
    return float(str(one).strip() == str(other).strip())


def _folded(value: Any) -> str:
    return " ".join(str(value).lower().split())


def _alike(one: Any, other: Any) -> float:
    said, wanted = _folded(one), _folded(other)
    return 1.0 - edit_distance(said, wanted) / max(len(said), len(wanted))


_LIKE: dict[str, Callable[[Any, Any], float]] = {
    "exact": _equal,
    "folded": lambda one, other: float(_folded(one) == _folded(other)),
    "edit": _alike,
    "iou": lambda one, other: iou(tuple(map(float, one)), tuple(map(float, other))),  # type: ignore[arg-type]
}
