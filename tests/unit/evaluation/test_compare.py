"""Two runs on the same questions: paired numbers against known values, and what does not compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.evaluation.compare import compare, show
from mmllm.evaluation.metrics.paired import difference, mcnemar
from mmllm.evaluation.predictions import Prediction, _line


def run(folder: Path, scores: dict[str, float], **entry: Any) -> Path:
    """A run that was scored on one benchmark; the name of a question says its kind and its item."""
    (folder / "predictions").mkdir(parents=True)
    words = {
        "metric": "exact_match",
        "variant": None,
        "files": {"a": "1"},
        "prompt": "p",
        "decoding": {},
        "key": folder.name,
    }
    (folder / "results.json").write_text(json.dumps({"benchmarks": {"signs": words | entry}}))
    lines = [
        Prediction(name, f"{name}?", f"said {score}", ["yes"], score, True, name[0], None, folder.name, item=name[:2])
        for name, score in scores.items()
    ]
    (folder / "predictions" / "signs.jsonl").write_text("".join(map(_line, lines)))
    return folder


def test_differences_are_paired_and_by_kind(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {"a1": 1.0, "a2": 0.0, "b1": 0.0, "b2": 1.0, "b3": 0.0})
    second = run(tmp_path / "b", {"a1": 1.0, "a2": 1.0, "b1": 1.0, "b2": 0.0, "b3": 1.0}, prompt="q", shots={"n": 2})
    (found,) = compare(first, second)
    whole, a, b = found.rows
    assert (whole.name, whole.n, whole.first, whole.second) == ("all", 5, 0.4, 0.8)
    assert whole.difference == pytest.approx(0.4) and (whole.gained, whole.lost) == (3, 1) and whole.p == 0.625
    assert (a.name, a.n, a.difference, b.name, b.n) == ("a", 2, 0.5, "b", 3)
    assert [one.name for one, _ in found.changed] == ["a2", "b1", "b2", "b3"] and found.notes == [
        "the prompt differs",
        "the shots differ",
    ]
    console = Console(record=True, width=120)
    show([found], (first, second), console)
    text = console.export_text()
    assert "+0.400" in text and "a2?  wanted 'yes': 'said 0.0' -> 'said 1.0'" in text


def test_the_interval_is_agresti_and_mins_and_wider_for_shared_items() -> None:
    # 16 gained, 4 lost of 100: (16 - 4) / 102 +- 1.96 sqrt(((16 + 4 + 1) - (16 - 4)^2 / 102) / 102^2)
    first, second = [0.0] * 16 + [1.0] * 4 + [1.0] * 80, [1.0] * 16 + [0.0] * 4 + [1.0] * 80
    mean, low, high = difference(first, second)
    half = 1.959964 * ((21 - 144 / 102) / 102**2) ** 0.5
    assert (mean, low, high) == pytest.approx((0.12, 12 / 102 - half, 12 / 102 + half))
    assert difference(first, second, list(range(100))) == (mean, low, high)
    together = difference(first, second, [number // 4 for number in range(100)])
    assert together[2] - together[1] > 1.5 * (high - low)
    same = difference([1.0] * 50, [1.0] * 50)
    assert same[0] == 0 and 0.02 < same[2] < 0.06 and same[1] == -same[2]
    with pytest.raises(MmllmError, match="two scores a question; there are 1 and 2"):
        difference([0.0], [0.0, 1.0])


def test_mcnemar_is_exact_and_two_sided() -> None:
    # of 4 changes 3 or more of one kind: 2 (4 + 1) / 16; of 7 all of one kind: 2 / 128
    assert (mcnemar(3, 1), mcnemar(1, 3), mcnemar(0, 7)) == pytest.approx((0.625, 0.625, 1 / 64))
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0


def test_what_does_not_compare_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "a", {"a1": 1.0})
    other = run(tmp_path / "b", {"a1": 1.0}, files={"a": "2"})
    with pytest.raises(MmllmError, match=r"signs was not the same in both: its files was .*'1'.* and .*'2'"):
        compare(first, other)
    with pytest.raises(MmllmError, match=r"cars is in the results of both: .*a has signs; .*b has signs"):
        compare(first, other, ["cars"])
    with pytest.raises(MmllmError, match="about no question in common"):
        compare(first, run(tmp_path / "c", {"b1": 1.0}))
    assert main(["compare", str(first), str(tmp_path / "nowhere")]) == 2
    assert "nowhere has no results.json: score it first" in capsys.readouterr().err


def test_more_questions_in_one_are_said(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", {"a1": 1.0}), run(tmp_path / "b", {"a1": 1.0, "a2": 0.0})
    (found,) = compare(first, second)
    assert found.rows[0].n == 1 and found.notes == ["1 questions of 1 and 2"]
