"""F1 of fields and line items: known values, what does not count, and agreement with Donut's on flat records."""

from __future__ import annotations

import copy
import json
import os
import random
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered
from mmllm.evaluation.benchmarks.documents import Funsd, Sroie
from mmllm.evaluation.benchmarks.qa import Qa
from mmllm.evaluation.metrics.fields import Counts, counts_of, field_f1, record_of

BILL = {
    "company": "A",
    "total": 9,
    "items": [{"name": "tea", "price": "2"}, {"name": "cake", "price": "3"}, {"name": "tea", "price": "4"}],
}


def test_neither_rows_nor_keys_have_an_order() -> None:
    for rows in permutations(BILL["items"]):  # type: ignore[arg-type]
        turned = [dict(reversed(row.items())) for row in rows]
        assert counts_of({"items": turned, "total": "9", "company": "A "}, BILL) == Counts(8.0, 8, 8)
    # a value in the wrong row counts, as it does not in a bag of fields
    swapped = copy.deepcopy(BILL)
    swapped["items"][0]["price"], swapped["items"][1]["price"] = "3", "2"  # type: ignore[index]
    assert counts_of(swapped, BILL) == Counts(6.0, 8, 8)
    # rows are paired for most agreement, not one after the other: 4 of these 6, where in turn it would be 3
    said = {"items": [{"name": "tea", "price": "4"}, {"name": "tea", "price": "3"}, {"name": "cake", "price": "0"}]}
    assert counts_of(said, {"items": BILL["items"]}) == Counts(4.0, 6, 6)


def test_cells_are_compared_by_name() -> None:
    for variant, said, wanted, value in (
        ("exact", "Tea", "tea", 0.0),
        ("folded", " Tea  pot", "tea pot", 1.0),
        ("edit", "helo", "hello", 0.8),
        ("iou", [0, 0, 2, 1], [1, 0, 2, 1], 0.5),
    ):
        assert counts_of({"a": said}, {"a": wanted}, variant) == Counts(value, 1, 1), variant
    boxes = {"items": [{"name": [0, 0, 1, 1]}, {"name": [2, 2, 3, 3]}]}
    assert counts_of({"items": boxes["items"][::-1]}, boxes, "iou").f1 == 1.0
    # one value and a list of one are the same; missing, hallucinated and empty ones
    assert counts_of({"a": ["x"], "b": [], "c": None, "d": ""}, {"a": "x"}) == Counts(1.0, 1, 1)
    assert counts_of({"a": "x", "b": "y"}, {"a": "x", "c": "z"}).f1 == 0.5
    assert counts_of(None, {"a": "x"}).f1 == 0.0 and counts_of({}, {}).f1 == 1.0
    assert counts_of([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]).f1 == 1.0
    assert counts_of({"m": {"a": {"b": 1}}}, {"m": [{"a": {"b": 1}}]}).f1 == 1.0


def test_more_corruption_never_scores_higher() -> None:
    draw = random.Random(3)
    for _ in range(50):
        rows = [{key: str(draw.randrange(4)) for key in "abc"} for _ in range(draw.randrange(1, 6))]
        said, before = copy.deepcopy(rows), 1.0
        draw.shuffle(said)
        cells = [(row, key) for row in said for key in row]
        draw.shuffle(cells)
        for row, key in cells:
            row[key] = "wrong"
            found = counts_of({"rows": said}, {"rows": rows}).f1
            assert found < before
            before = found
        assert before == 0.0


def test_flat_records_score_as_donuts() -> None:
    """Donut's F1 of the bag of (key, value), where every key is a field of its own (read in its evaluator)."""
    draw = random.Random(4)
    for _ in range(2000):
        one, other = ({key: str(draw.randrange(3)) for key in draw.sample("abcde", draw.randrange(5))} for _ in "ab")
        bags = [Counter(record.items()) for record in (one, other)]
        right = sum((bags[0] & bags[1]).values())
        wrong = sum(bags[0].values()) + sum(bags[1].values()) - 2 * right
        wanted = right / (right + wrong / 2) if right + wrong else 1.0
        assert counts_of(one, other).f1 == pytest.approx(wanted)


def test_answers_are_read_as_json() -> None:
    assert record_of('Here it is:\n```json\n{"a": 1}\n```') == {"a": 1} and record_of('[{]} {"a": [1]}') == {"a": [1]}
    assert record_of("no {object}") is None and record_of("[" * 3000) is None
    assert field_f1('{"a": "x"}', ['{"a": "y"}', '{"a": "x"}']) == 1.0 and field_f1("x", ['{"a": "x"}']) == 0.0


def test_own_documents(tmp_path: Path) -> None:
    rows = [{"question": "Fields?", "answer": BILL}, {"question": "Fields?", "answer": json.dumps({"total": "1"})}]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    benchmark = Qa(path=str(tmp_path / "own.json"), metric="field_f1", variant="folded")
    said = [json.dumps({"company": "a"}), "none"]
    answered = [Answered(benchmark[n], text, benchmark.graded(text, benchmark[n])[0]) for n, text in enumerate(said)]
    assert [one.score for one in answered] == [2 / 9, 0.0] and not benchmark.graded("none", benchmark[1])[1]
    assert benchmark.whole(answered) == 2 / (1 + 8 + 1)
    (tmp_path / "own.json").write_text(json.dumps([{"question": "?", "answer": "9.00"}]))
    with pytest.raises(MmllmError, match=r"it has the answer '9.00'; it is an object of values"):
        Qa(path=str(tmp_path / "own.json"), metric="field_f1")


@pytest.mark.skipif("MMLLM_TEST_DATA" not in os.environ, reason="needs the folder MMLLM_TEST_DATA")
@pytest.mark.parametrize(("kind", "n", "least"), [(Sroie, 24, 90), (Funsd, 12, 190)])
def test_real_documents(kind: Any, n: int, least: int) -> None:
    benchmark = kind(path=f"{os.environ['MMLLM_TEST_DATA']}/{kind.name}")
    assert len(benchmark) == n
    questions = [benchmark[index] for index in range(n)]
    right = [Answered(one, f"```json\n{one.reference[0]}\n```", 1.0) for one in questions]
    assert benchmark.whole(right) == 1.0 and benchmark.figures(right)["recall"] == 1.0
    records = [json.loads(one.reference[0]) for one in questions]
    cells = sum(counts_of(record, record).wanted for record in records)
    assert cells >= least
    # the first field of each left out, and one made up
    less = [dict(list(record.items())[1:]) | {"made up": "x"} for record in records]
    worse = [Answered(one, json.dumps(record), 0.0) for one, record in zip(questions, less, strict=True)]
    assert 0.3 < benchmark.figures(worse)["recall"] < 1.0 and 0.3 < (benchmark.whole(worse) or 0) < 1.0
