"""Own questions without code: a file of rows and the name of a metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered
from mmllm.evaluation.benchmarks.qa import Qa
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
    benchmark = Qa(path=written(tmp_path, rows, lines))
    first, second, third = (benchmark[n] for n in range(3))
    assert len(benchmark) == 3 and first.sample.messages[0].text == "<image>\nWhat colour?" and first.kind == "colour"
    assert second.sample.name == "qa:7" and second.sample.messages[0].text == "<image>\n<image>\nHow many?"
    assert second.sample.media == {"image": (tmp_path / "a.png",) * 2} and second.reference == ("2", "two")
    assert third.sample.media == {} and third.sample.messages[0].text == "Who wrote it?"
    assert benchmark.score("Two.", second.reference) == 1.0 and benchmark.score("", first.reference) == 0.0


def test_the_prompt_says_where_media_go(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "What?", "answer": "red", "image": "a.png"}])
    asked = Qa(path=path, prompt="{question} <image>\nOne word.")[0]
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
    benchmark = Qa(path=written(tmp_path, [{"question": "What?", "answer": answer}]), metric=metric)
    assert benchmark.metric == metric in METRICS
    assert benchmark.score(prediction, benchmark[0].reference) == pytest.approx(value)


def test_word_errors_of_own_transcripts_are_added_up(tmp_path: Path) -> None:
    rows = [{"question": "Write it.", "answer": text} for text in ("one", "two words more")]
    benchmark = Qa(path=written(tmp_path, rows), metric="wer")
    said = ["won", "two words"]
    answered = [Answered(benchmark[n], text, benchmark.graded(text, benchmark[n])[0]) for n, text in enumerate(said)]
    # 1 of 1 and 1 of 3, not the mean of the two rates
    assert benchmark.whole(answered) == 0.5 and [one.score for one in answered] == pytest.approx([0.0, 2 / 3])
    assert Qa(path=written(tmp_path, [RED])).whole(answered) is None


@pytest.mark.parametrize(
    ("rows", "words", "sentence"),
    [
        (
            [{"question": "What?", "answer": "red"}],
            {"metric": "blue"},
            "the metric 'blue' is unknown; known: exact_match",
        ),
        ([{"answer": "red"}], {}, r"own.json: rows have the fields answer, which is no form"),
        ([RED, {"answer": "red"}], {}, r"own.json.* it has no question, but the fields answer"),
        ([], {}, "own.json"),
        ([{"question": "What?"}], {}, r"own.json.* it has the answer None; it is a text, a number or a list"),
        ([RED | {"answer": True}], {}, r"it has the answer True; it is a text, a number or a list"),
        ([RED, RED | {"img": "a.png"}], {}, "has media in the unknown field 'img'; known: question, .* columns: "),
        ([RED | {"image": 3}], {}, "image holds 3; it is a path"),
        ([RED | {"answers": ["red"]}], {}, "both answer and answers"),
        (
            [RED | {"options": ["red", "blue"]}],
            {},
            "it has options, and exact_match offers none; write metric: accuracy",
        ),
        ([RED], {"metric": "accuracy"}, r"it has the options \[\]; they are two or more texts"),
        (
            [RED | {"options": ["blue", "grey"]}],
            {"metric": "accuracy"},
            "answer 'red' to 2 options; it is a letter of AB",
        ),
        # letters behind a gap would stand for other options than the file means
        (
            [RED | {"answer": "C", "A": "red", "B": "", "C": "blue"}],
            {"metric": "accuracy"},
            "they are two or more texts, without a gap",
        ),
        ([RED], {"metric": "iou@0.5"}, "it has the answer 'red'; it is a box of numbers"),
        ([RED | {"answer": [1, 2, 30, 40]}], {"metric": "iou@0.5"}, "which box_scale: 1 does not make parts of"),
        ([RED], {"metric": "vqa_accuracy"}, "it has 1 answers; vqa_accuracy .* needs 4 or more"),
        ([RED], {"metric": "anls", "variant": "old"}, "anls has no variant 'old'; its variants: strict, inclusive"),
        ([RED], {"variant": "old"}, "exact_match has no variant 'old'; its variants: none"),
        ([{"question": "What?", "answer": "red"}], {"prompt": "Say it."}, r"has no \{question\} in it"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path: Path, rows: Any, words: dict[str, str], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        Qa(path=written(tmp_path, rows), **words)


def test_a_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    benchmark = Qa(path=written(tmp_path, [{"question": "What?", "answer": "red", "image": "b.png"}]))
    with pytest.raises(MmllmError, match=r"b\.png is missing"):
        benchmark[0]


def test_a_placeholder_of_the_prompt_is_a_field(tmp_path: Path) -> None:
    path = written(tmp_path, [RED | {"page": "a.png"}])
    assert Qa(path=path, prompt="<page> {question}")[0].sample.media == {"page": (tmp_path / "a.png",)}
    with pytest.raises(MmllmError, match="media in the unknown field 'page'"):
        Qa(path=path)


def test_a_line_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"question": "a\u2028b", "answer": "red"}\n\n', encoding="utf-8")
    assert Qa(path=str(tmp_path / "own.json"))[0].text == "a\u2028b"


@pytest.mark.parametrize("answer", ["B", "b.", 1, "1", "blue", "(B)"])
@pytest.mark.parametrize(
    "options", [{"options": ["red", "blue"]}, {"options": "['red', 'blue']"}, {"A": "red", "B": "blue"}]
)
def test_options_are_lettered_and_the_letter_taken_is_read(
    tmp_path: Path, answer: Any, options: dict[str, Any]
) -> None:
    row = {"question": "What colour?", "answer": answer, "C": None, "D": "N/A", **options}
    benchmark = Qa(path=written(tmp_path, [row]), metric="accuracy")
    question = benchmark[0]
    assert question.sample.messages[0].text == "What colour?\nA. red\nB. blue"
    assert question.reference == ("B", "blue") and question.options == ("red", "blue")
    said = {"B": (1.0, True), "**Blue**": (1.0, True), "A": (0.0, True), "C": (0.0, False), "": (0.0, False)}
    assert {text: benchmark.graded(text, question) for text in said} == said


def test_boxes_are_compared_on_their_own_scale(tmp_path: Path) -> None:
    rows = [{"question": "Where?", "answer": [0, 0, 500, 500]}, {"question": "Where?", "answer": "[0, 0, 500, 500]"}]
    benchmark = Qa(path=written(tmp_path, rows), metric="iou@0.5", box_scale=1000)
    for question in (benchmark[0], benchmark[1]):
        assert question.reference == (0.0, 0.0, 0.5, 0.5)
        assert benchmark.graded("[0, 0, 500, 260]", question) == (1.0, True)
        assert benchmark.graded("[0, 0, 500, 240]", question) == (0.0, True)
        assert benchmark.graded("there", question) == (0.0, False)


def test_conversations_are_asked_turn_by_turn(tmp_path: Path) -> None:
    turns = [("human", "<image>\nWhat colour?"), ("gpt", "red"), ("human", "And how many?"), ("gpt", "one")]
    row = {"id": "x", "image": "a.png", "conversations": [{"from": who, "value": what} for who, what in turns]}
    benchmark = Qa(path=written(tmp_path, [row]), prompt="{question}\nOne word.")
    first, second = benchmark[0], benchmark[1]
    assert len(benchmark) == 2 and (first.sample.name, second.sample.name) == ("qa:x/1", "qa:x/3")
    assert [message.text for message in second.sample.messages] == [
        "<image>\nWhat colour?",
        "red",
        "And how many?\nOne word.",
    ]
    assert first.sample.messages[0].text == "<image>\nWhat colour?\nOne word." and first.text == "What colour?"
    assert first.sample.media == second.sample.media == {"image": (tmp_path / "a.png",)}
    assert (first.reference, second.reference) == (("red",), ("one",))


def test_columns_of_a_published_table_are_named(tmp_path: Path) -> None:
    """As VQAv2's own Parquet has it: bytes of a picture, one object an annotator, and more columns than are read."""
    import pyarrow
    from pyarrow import parquet

    written(tmp_path, [])
    picture = (tmp_path / "a.png").read_bytes()
    table = {
        "question_id": [11, 12],
        "question": ["What?", "Is it?"],
        "picture": [{"bytes": picture, "path": None}] * 2,
        "answers": [[{"answer": "red", "answer_id": n} for n in range(10)]] * 2,
        "question_type": ["what", "is"],
    }
    parquet.write_table(pyarrow.Table.from_pydict(table), tmp_path / "own.parquet")
    columns = {"image": "picture", "kind": "question_type"}
    benchmark = Qa(path=str(tmp_path / "own.parquet"), metric="vqa_accuracy", columns=columns)
    question = benchmark[1]
    assert (question.sample.name, question.kind, question.reference) == ("qa:12", "is", ("red",) * 10)
    assert question.sample.media["image"][0].load() == picture
    with pytest.raises(MmllmError, match="media in the unknown field 'picture'"):
        Qa(path=str(tmp_path / "own.parquet"), metric="vqa_accuracy")
