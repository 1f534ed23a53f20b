"""Readers of official files: what each takes from its rows, and the real files where a folder of them is given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered, Benchmark
from mmllm.evaluation.benchmarks.chartqa import ChartQa
from mmllm.evaluation.benchmarks.docvqa import DocVqa
from mmllm.evaluation.benchmarks.easy_vqa import EasyVqa
from mmllm.evaluation.benchmarks.mini_grounding import MiniGrounding
from mmllm.evaluation.benchmarks.textvqa import TextVqa
from mmllm.evaluation.benchmarks.vqav2 import VqaV2
from mmllm.testing.tiny import benchmarks as tiny
from mmllm.testing.tiny.published_benchmarks import png, write_table


def test_vqav2_joins_questions_and_annotations(tmp_path: Path) -> None:
    benchmark = tiny.vqav2(tmp_path)
    question = benchmark[1]
    assert question.sample.name == "vqav2:421"
    assert question.reference == ("no",) * 9 + ("yes",)
    assert question.kind == "yes/no"
    assert Path(question.sample.media["image"][0]).name == "COCO_val2014_000000000042.jpg"
    assert benchmark.score("yes", question.reference) == pytest.approx(0.3)
    assert benchmark.score("No", question.reference) == 1.0


def test_vqav2_names_the_question_without_answers(tmp_path: Path) -> None:
    tiny.vqav2(tmp_path)
    file = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(file.read_text())
    del content["annotations"][1]
    file.write_text(json.dumps(content))
    with pytest.raises(MmllmError, match="421"):
        VqaV2(path=str(tmp_path))


def test_the_variant_is_a_field_and_is_checked(tmp_path: Path) -> None:
    tiny.vqav2(tmp_path)
    same = ("green",) * 10
    assert VqaV2(path=str(tmp_path)).score("Green", same) == 0.0
    assert VqaV2(path=str(tmp_path), variant="vqa_lmms").score("Green", same) == 1.0
    with pytest.raises(MmllmError, match=r"vqa_2018.*vqa_2017"):
        VqaV2(path=str(tmp_path), variant="vqa_2018")
    tiny.textvqa(tmp_path / "text")
    with pytest.raises(MmllmError, match="textvqa_mmf"):
        TextVqa(path=str(tmp_path / "text"), variant="mmf")


def test_docvqa_reads_the_older_name_and_both_thresholds(tmp_path: Path) -> None:
    assert tiny.docvqa(tmp_path)[0].kind == "form"
    (tmp_path / "val_v1.0_withQT.json").rename(tmp_path / "val_v1.0.json")
    benchmark = DocVqa(path=str(tmp_path))
    assert benchmark.files[0].name == "val_v1.0.json"
    assert benchmark.score("abcd", ("abxy",)) == 0.0
    assert DocVqa(path=str(tmp_path), variant="inclusive").score("abcd", ("abxy",)) == 0.5
    # both are reported, whichever is the score
    right = str(benchmark[0].reference[0])
    half = f"{right}{'#' * len(right)}"
    answered = [Answered(benchmark[0], half, benchmark.score(half, benchmark[0].reference))]
    assert answered[0].score == 0.0 and benchmark.figures(answered) == {"anls_inclusive": 0.5}
    assert list(DocVqa(path=str(tmp_path), variant="inclusive").figures(answered)) == ["anls_strict"]
    with pytest.raises(MmllmError, match="inclusive"):
        DocVqa(path=str(tmp_path), variant="loose")


def test_chartqa_asks_the_named_parts(tmp_path: Path) -> None:
    both = tiny.chartqa(tmp_path)
    assert [both[0].kind, both[1].kind] == ["human", "augmented"]
    assert both.score("14.7", both[1].reference) == 1.0
    (tmp_path / "test" / "test_human.json").unlink()
    assert len(ChartQa(path=str(tmp_path), parts=["augmented"])) == 1
    with pytest.raises(MmllmError, match=r"test_human\.json"):
        ChartQa(path=str(tmp_path))


def test_grounding_counts_unreadable_boxes(tmp_path: Path) -> None:
    benchmark = tiny.TINY["mini_grounding"](tmp_path)
    assert benchmark[0].reference == (0.0, 0.0, 0.5, 0.5)
    assert benchmark.parsed("[0,0,50,50]") and not benchmark.parsed("[0,0,50")
    assert benchmark.score("[0,0,50,26]", benchmark[0].reference) == 1.0
    assert benchmark.score("[0,0,50,24]", benchmark[0].reference) == 0.0
    file = benchmark.files[0]
    file.write_text(file.read_text().replace('"box": [0, 0, 50, 50]', '"box": [0, 0]'))
    with pytest.raises(MmllmError, match="no box"):
        MiniGrounding(path=str(tmp_path))[0]


def test_real_easy_vqa() -> None:
    benchmark = EasyVqa(path=str(_real() / "easy_vqa"))
    assert len(benchmark) == 9673
    kinds = [benchmark[index].kind for index in range(0, len(benchmark), 97)]
    assert 0.6 < sum(kind.startswith("yes/no") for kind in kinds) / len(kinds) < 0.85
    first = benchmark[0]
    assert (first.text, first.reference) == ("what is the red shape?", ("triangle",))
    assert benchmark.score("Triangle.", first.reference) == 1.0


def test_real_chartqa() -> None:
    benchmark = ChartQa(path=str(_real() / "chartqa"), parts=["augmented"])
    assert len(benchmark) == 71
    assert benchmark[0].reference == ("2094.6",)
    scores = [benchmark.score(benchmark[index].reference[0], benchmark[index].reference) for index in range(71)]
    assert sum(scores) == 71


def _real() -> Path:
    root = os.environ.get("MMLLM_TEST_DATA")
    if not root:
        pytest.skip("MMLLM_TEST_DATA is not set")
    return Path(root)


TABLES: list[tuple[str, str, list[dict[str, Any]]]] = [
    (
        "textvqa",
        "data/validation-00000-of-00001.parquet",
        [{"question_id": 7, "question": "What brand?", "answers": ["dell"] * 10, "ocr_tokens": ["dell"]}],
    ),
    (
        "vqav2",
        "data/validation-00000-of-00001.parquet",
        [
            {"question_id": 7, "question": "Is it?", "answers": [{"answer": "yes", "answer_id": 1}] * 10}
            | {"answer_type": "yes/no"}
        ],
    ),
    (
        "docvqa",
        "DocVQA/validation-00000-of-00001.parquet",
        [{"questionId": "7", "question": "Who?", "answers": ["Ann", "Ann B."], "question_types": ["form", "layout"]}],
    ),
    ("chartqa", "data/test-00000-of-00001.parquet", [{"type": "human_test", "question": "Which?", "answer": "[2, 3]"}]),
]


@pytest.mark.parametrize(("name", "file", "rows"), TABLES, ids=[one[0] for one in TABLES])
def test_the_hubs_tables_are_read_by_the_same_name(
    tmp_path: Path, name: str, file: str, rows: list[dict[str, Any]]
) -> None:
    (tmp_path / "official").mkdir()
    official = tiny.TINY[name](tmp_path / "official")
    write_table(tmp_path / "hub" / file, [row | {"image": png()} for row in rows])
    benchmark: Benchmark = registry.load("benchmarks", name)(path=str(tmp_path / "hub"))
    question, (row,) = benchmark[0], rows
    assert len(benchmark) == 1 and [one.name for one in benchmark.files] == [Path(file).name]
    assert benchmark.prompt == official.prompt and benchmark.variant == official.variant
    assert question.sample.name.startswith(f"{name}:") and len(question.sample.media["image"]) == 1
    right = question.reference[0]
    # a list in words is one answer of a chart, and not two
    assert right == {"textvqa": "dell", "vqav2": "yes", "docvqa": "Ann", "chartqa": "[2, 3]"}[name]
    assert benchmark.graded(str(right), question) == (1.0, True)
    assert question.kind == {"textvqa": "", "vqav2": "yes/no", "docvqa": "form", "chartqa": "human"}[name]
    withheld = {"answer" if name == "chartqa" else "answers": None}
    write_table(tmp_path / "hub" / file.replace("validation-", "test-"), [row | {"image": png()} | withheld])
    with pytest.raises(MmllmError, match="the answers of the split test are withheld"):
        registry.load("benchmarks", name)(path=str(tmp_path / "hub"), split="test")
