"""The comparison with the peers' scorers: differences need a reason, and what is kept has one for each."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from benchmarks.scorers import cases, ours
from benchmarks.scorers.__main__ import DOCS, END, KEPT, START, table
from benchmarks.scorers.comparison import UNDECIDED, Comparison, Reason, compare


def test_a_difference_needs_a_reason() -> None:
    large = Reason("large ones are halved", lambda case: case > 7)

    def theirs(case: int) -> float:
        return case / 2 if case > 7 else case + (case == 3)

    found = compare(Comparison("m", "p", lambda draw: draw.randrange(10), float, theirs, (large,)), 200, 0)
    assert set(found.different) == {large.says, UNDECIDED} and found.equal + sum(found.different.values()) == 200
    assert {one["case"] for one in found.shown if one["reason"] == UNDECIDED} == {3}
    assert compare(Comparison("m", "p", lambda draw: draw.random(), float, lambda x: x + 1e-12), 50, 0).equal == 50


def test_what_is_kept_is_decided_and_stands_on_the_page() -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert len(kept["outcomes"]) >= 20
    for one in kept["outcomes"]:
        assert one["n"] >= 2000 and one["equal"] + sum(one["different"].values()) == one["n"]
        assert UNDECIDED not in one["different"], one["metric"]
    page = DOCS.read_text(encoding="utf-8")
    assert page.partition(START)[2].partition(END)[0].strip() == table(kept)


@pytest.mark.parametrize(
    ("draw", "score", "values"),
    [
        (cases.answered, ours.vqa("vqa_official_2021"), {0.0, 1.0}),
        (cases.numbers, ours.relaxed, {0.0, 1.0}),
        (cases.yes_no, ours.said_yes("mme_official"), {"yes", "no", None}),
        (cases.choice, ours.option, {"A", "B", "C", "D", None}),
        (cases.boxed, ours.hit, {0.0, 1.0}),
    ],
)
def test_what_is_drawn_reaches_every_outcome(draw: Any, score: Any, values: set[Any]) -> None:
    numbers = Random(1)
    found = [score(draw(numbers)) for _ in range(400)]
    assert {one if not isinstance(one, float) else round(one, 9) for one in found} >= values
