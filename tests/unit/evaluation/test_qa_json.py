"""Own questions without code: a JSON file and the name of a metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.qa_json import QaJson
from mmllm.evaluation.metrics.table import METRICS

RED = {"question": "What?", "answer": "red"}


def written(folder: Path, rows: Any, lines: bool = False) -> str:
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    (folder / "own.json").write_text(text, encoding="utf-8")
    return str(folder / "own.json")


@pytest.mark.parametrize("lines", [False, True])
def test_rows_become_questions(tmp_path: Path, lines: bool) -> None:
    rows = [
        {"question": "What colour?", "answer": "red", "image": "a.png", "kind": "colour"},
        {"id": 7, "question": "How many?", "answers": [2, "two"], "image": ["a.png", "a.png"]},
        {"question": "Who wrote it?", "answer": "nobody"},
    ]
    benchmark = QaJson(path=written(tmp_path, rows, lines))
    first, second, third = (benchmark[n] for n in range(3))
    assert len(benchmark) == 3 and first.sample.messages[0].text == "<image>\nWhat colour?" and first.kind == "colour"
    assert second.sample.name == "qa_json:7" and second.sample.messages[0].text == "<image>\n<image>\nHow many?"
    assert second.sample.media == {"image": (tmp_path / "a.png",) * 2} and second.reference == ("2", "two")
    assert third.sample.media == {} and third.sample.messages[0].text == "Who wrote it?"
    assert benchmark.score("Two.", second.reference) == 1.0 and benchmark.score("", first.reference) == 0.0


def test_the_prompt_says_where_media_go(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "What?", "answer": "red", "image": "a.png"}])
    asked = QaJson(path=path, prompt="{question} <image>\nOne word.")[0]
    assert asked.sample.messages[0].text == "What? <image>\nOne word."


@pytest.mark.parametrize(
    ("metric", "prediction", "answer", "value"),
    [
        ("exact_match", "The Red", "red", 1.0),
        ("anls", "helo", "hello", 0.8),
        ("relaxed_accuracy", "103", "100", 1.0),
        ("relaxed_accuracy", "103", ["two", "100"], 1.0),
        ("relaxed_accuracy", "106", "100", 0.0),
        ("vqa_accuracy", "red", ["red"] * 3 + ["blue"] * 7, 0.9),
    ],
)
def test_a_metric_by_its_name_computes_the_score(
    tmp_path: Path, metric: str, prediction: str, answer: Any, value: float
) -> None:
    benchmark = QaJson(path=written(tmp_path, [{"question": "What?", "answer": answer}]), metric=metric)
    assert benchmark.metric == metric in METRICS
    assert benchmark.score(prediction, benchmark[0].reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("rows", "words", "sentence"),
    [
        (
            [{"question": "What?", "answer": "red"}],
            {"metric": "blue"},
            "the metric 'blue' is unknown; known: exact_match",
        ),
        ([{"answer": "red"}], {}, r"entry 0 of .* has no question"),
        ([], {}, "does not hold a list of questions"),
        ([{"question": "What?"}], {}, r"row 1 of .* has the answer None; it is a text, a number or a list"),
        ([RED, RED | {"img": "a.png"}], {}, "row 2 of .* has the unknown field 'img'; known: question, answer, "),
        ([RED | {"image": None}], {}, "row 1 of .* has None as image; it is a path or a list of paths"),
        ([RED | {"answers": ["red"]}], {}, "both answer and answers"),
        ([RED], {"metric": "vqa_accuracy"}, "row 1 of .* has 1 answers; vqa_accuracy .* needs 4 or more"),
        ([RED], {"metric": "anls", "variant": "old"}, "anls has no variant 'old'; its variants: strict, inclusive"),
        ([RED], {"variant": "old"}, "exact_match has no variant 'old'; its variants: none"),
        ([{"question": "What?", "answer": "red"}], {"prompt": "Say it."}, r"has no \{question\} in it"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path: Path, rows: Any, words: dict[str, str], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        QaJson(path=written(tmp_path, rows), **words)


def test_a_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    benchmark = QaJson(path=written(tmp_path, [{"question": "What?", "answer": "red", "image": "b.png"}]))
    with pytest.raises(MmllmError, match=r"b\.png is missing"):
        benchmark[0]


def test_a_placeholder_of_the_prompt_is_a_field(tmp_path: Path) -> None:
    path = written(tmp_path, [RED | {"page": "a.png"}])
    assert QaJson(path=path, prompt="<page> {question}")[0].sample.media == {"page": (tmp_path / "a.png",)}
    with pytest.raises(MmllmError, match="unknown field 'page'"):
        QaJson(path=path)


def test_a_line_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"question": "a\u2028b", "answer": "red"}\n\n', encoding="utf-8")
    assert QaJson(path=str(tmp_path / "own.json"))[0].text == "a\u2028b"
