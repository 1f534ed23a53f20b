"""What rows name as right answers: one check for every reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark
from mmllm.evaluation.references import texts_of
from mmllm.testing.tiny import benchmarks as tiny


@pytest.mark.parametrize(
    ("found", "texts"),
    [
        ("red", ("red",)),
        (7, ("7",)),
        (["red", "rose"], ("red", "rose")),
        (("red", 2.5), ("red", "2.5")),
        ([{"answer": "red", "answer_id": 1}, {"answer": "rose"}], ("red", "rose")),
        (["red", ""], ("red", "")),
    ],
)
def test_texts_numbers_and_lists_of_them_are_answers(found: Any, texts: tuple[str, ...]) -> None:
    assert texts_of(found) == texts


@pytest.mark.parametrize("found", [None, "", "  ", [], ["", " "], [None], float("nan"), {"a": 1}, True, [["red"]]])
def test_what_is_none_is_refused(found: Any) -> None:
    with pytest.raises(MmllmError, match="it is a text, a number or a list of them"):
        texts_of(found)


READERS: list[tuple[Callable[[Path], Benchmark], str, Callable[[Any], Any], str]] = [
    (tiny.chartqa, "test/test_human.json", lambda content: content[0], "label"),
    (tiny.textvqa, "TextVQA_0.5.1_val.json", lambda content: content["data"][0], "answers"),
    (tiny.docvqa, "val_v1.0_withQT.json", lambda content: content["data"][0], "answers"),
    (tiny.vqav2, "v2_mscoco_val2014_annotations.json", lambda content: content["annotations"][0], "answers"),
    (tiny.msvd_qa, "test_qa.json", lambda content: content[0], "answer"),
    (tiny.easy_vqa, "test/questions.json", lambda content: content[0], "1"),
]


@pytest.mark.parametrize(("maker", "file", "first", "field"), READERS, ids=[one[0].__name__ for one in READERS])
def test_every_reader_takes_a_list_and_refuses_null(
    tmp_path: Path, maker: Callable[[Path], Benchmark], file: str, first: Callable[[Any], Any], field: str
) -> None:
    kind: Callable[..., Benchmark] = type(maker(tmp_path))
    content = json.loads((tmp_path / file).read_text())
    key: Any = int(field) if field.isdigit() else field
    for found, ends in (("sky", ("sky",)), (["sky"] * 4, ("sky",) * 4)):
        first(content)[key] = found
        (tmp_path / file).write_text(json.dumps(content))
        question = kind(path=str(tmp_path))[0]
        assert question.reference == ends
        if len(ends) == 4:  # VQA accuracy asks for three others who agree
            assert kind(path=str(tmp_path)).graded("sky", question) == (1.0, True)
    first(content)[key] = None
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(MmllmError, match=r"entry 0 of .*it has the answer None"):
        kind(path=str(tmp_path))
