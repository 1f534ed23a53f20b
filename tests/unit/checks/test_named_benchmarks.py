"""Several benchmarks of one type, each under a name of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmllm.cli.runs import _chosen
from mmllm.errors import MmllmError
from mmllm.evaluation.run import opened
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Eval
from tests.support.checked import Checked


def entries(folder: Path) -> dict[str, Any]:
    for name in ("signs", "cars"):
        (folder / f"{name}.json").write_text(json.dumps([{"question": f"{name}?", "answer": "a"}]))
    return {
        "signs": {"type": "qa", "path": str(folder / "signs.json")},
        "cars": {"type": "qa", "path": str(folder / "cars.json"), "metric": "anls"},
    }


def test_entries_of_one_type_have_names_of_their_own(tmp_path: Path) -> None:
    signs, cars = opened(entries(tmp_path))
    assert (signs.name, cars.name, type(signs)) == ("signs", "cars", type(cars))
    assert signs[0].sample.name == "signs:1" and cars[0].text == "cars?" and cars.metric == "anls"


def test_a_type_and_a_name_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="found the type 3; it is the name of a benchmark"):
        Eval(benchmarks={"a": {"type": 3}})
    with pytest.raises(ValueError, match='found the name "a/b"'):
        Eval(benchmarks={"a/b": {"type": "qa"}})
    with pytest.raises(MmllmError, match=r'"qaa"; .*did you mean "qa"'):
        opened({"mine": {"type": "qaa", "path": "x"}})


def test_a_recipe_s_check_speaks_of_the_type_s_arguments(checked: Checked) -> None:
    checked.change("{qa_json: {path: questions.json}}", "{mine: {type: qa, path: questions.json}}")
    assert checked() == 0 and "eval.benchmarks.mine: 1 question" in checked.out
    checked.change("path: questions.json}", "path: questions.json, metrik: anls}")
    assert checked() == 2 and "eval.benchmarks.mine.metrik: unknown argument of qa; known: path, metric" in checked.err


def test_a_file_of_benchmarks_stands_for_its_entries(checked: Checked) -> None:
    (checked.folder / "more.yaml").write_text("eval: {benchmarks: {mine: {type: qa, path: questions.json}}}\n")
    recipe = checked.folder / "my.yaml"
    chosen = _chosen(recipe, [str(checked.folder / "more.yaml"), "qa_json"])
    assert list(chosen) == ["mine", "qa_json"] and chosen["mine"]["type"] == "qa"
    assert chosen["qa_json"] == load_recipe(recipe).eval.benchmarks["qa_json"]
    with pytest.raises(MmllmError, match=r"--benchmarks none\.yaml: No such file"):
        _chosen(recipe, ["none.yaml"])
    (checked.folder / "more.yaml").write_text("3\n")
    with pytest.raises(MmllmError, match="holds no benchmarks"):
        _chosen(recipe, [str(checked.folder / "more.yaml")])
