"""The examples of the pages run: parts of docs/extending.md, the script of docs/data.md, and docs/first_steps.py."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.places import ROOT

BLOCK = re.compile(r"^```(?:python|toml)\n# (file|line|check): ([^\n]+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPE = """\
llm: {path: lm, context: 128}
encoders:
  image: {type: timm_cnn, model: test_resnet, weights: test_resnet.safetensors}
connectors:
  image: {type: bilinear, from: image, grid: [8, 8]}
  gain: {type: "my_parts.gain:MlpGain", when: [image]}
data:
  mine: {type: "my_parts.csv_qa:CsvQa", path: questions.csv}
stages:
  learn: {train: {connectors.image: 1.0e-3, connectors.gain: 1.0e-3}, data: {mine: 1.0}, steps: 1, batch: 2}
eval:
  benchmarks: {"my_parts.signs:Signs": {path: my_questions}}
"""


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(file | line | check, what it is of, text) of each marked block."""
    return BLOCK.findall((ROOT / "docs" / page).read_text())


CHECKS = {name: text for kind, name, text in blocks("extending.md") if kind == "check"}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page; they can be imported under their names for a while."""
    monkeypatch.setitem(sys.modules, "my_parts", ModuleType("my_parts"))
    for kind, name, text in blocks("extending.md"):
        if kind != "file":
            continue
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        module = name.removesuffix(".py").replace("/", ".")
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module, made)
        spec.loader.exec_module(made)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CHECKS)
def test_each_example_keeps_its_contract(name: str, parts: Path) -> None:
    exec(compile(CHECKS[name], name, "exec"), {"__name__": name})


def test_the_page_has_an_example_of_each_kind() -> None:
    assert list(CHECKS) == ["bilinear", "gain", "timm_cnn", "csv_qa", "signs"]


def test_journeys_are_short() -> None:
    files = {name: text for kind, name, text in blocks("extending.md") if kind == "file"}
    assert len(files["my_parts/signs.py"].strip().splitlines()) <= 15
    lines = [name for kind, name, _ in blocks("extending.md") if kind == "line"]
    assert lines == ["mmllm/connectors/__init__.py PROJECTORS", "mmllm/encoders/__init__.py TABLE"]


def test_a_file_and_a_line_are_a_part_of_the_repository(tmp_path: Path) -> None:
    """In a copy: `mmllm ls` knows them and `mmllm check` reads their arguments."""
    shutil.copytree(ROOT / "mmllm", tmp_path / "mmllm", ignore=shutil.ignore_patterns("__pycache__"))
    for kind, name, text in blocks("extending.md"):
        if kind == "file":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        elif kind == "line":
            path, table = name.split()
            head = f"{table}: dict[str, str] = {{\n"
            before = (tmp_path / path).read_text()
            assert head in before
            (tmp_path / path).write_text(before.replace(head, head + text))
    (tmp_path / "my.yaml").write_text(RECIPE)
    assert "bilinear" in mmllm(tmp_path, "ls", "connectors") and "timm_cnn" in mmllm(tmp_path, "ls", "encoders")
    assert mmllm(tmp_path, "check", "my.yaml", "--syntax") == "my.yaml: its words are right (1 stage: learn)\n"
    said = mmllm(tmp_path, "check", "my.yaml")
    assert "mmllm: importing my_parts.gain:MlpGain, a class of another package.\n" in said
    assert (
        "mmllm: my.yaml: 3 errors; relative paths start beside the recipe or in " in said
    )  # its files; its classes are right
    said = mmllm(tmp_path, "check", "my.yaml", "connectors.image.grids=[8, 8]")
    assert 'unknown argument of bilinear; known: grid, depth; did you mean "grid"?' in said


def mmllm(folder: Path, *arguments: str) -> str:
    """What the command prints there."""
    done = subprocess.run(
        [sys.executable, "-m", "mmllm", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny random run that nobody trained, with pictures beside it."""
    from mmllm.generation.model import Model
    from mmllm.model.build import build
    from mmllm.recipe.load import load_recipe
    from tests.support.training import tiny_recipe

    questions = ROOT / "data" / "mini" / "fixtures"
    recipe = load_recipe(
        tiny_recipe(tmp_path), [f"eval.benchmarks={{mini_digits: {{path: {questions}}}}}", "eval.max_new_tokens=4"]
    )
    Model(build(recipe, "cpu"), recipe).save_pretrained(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_first_steps(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["first_steps.py", str(run), "0.png"])
    runpy.run_path(str(ROOT / "docs" / "first_steps.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "mmllm.Model 'tiny' on" in said and "<image> takes 16 tokens" in said
    assert "grid (4, 4)" in said and "mini_digits exact_match" in said and "blind" in said
    assert "UnreadableError" in said and "nowhere.png" in said
    assert "stages/instruct/step-0/learned.safetensors" in said


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", {"runs/demo": "run", "digit.png": "0.png", "limit=50": "limit=2"}),
        ("docs/quickstart.md", {"runs/my": "run", "my_data/0042.jpg": "0.png"}),
    ],
)
def test_python_on_a_page(page: str, names: dict[str, str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```python\n(import mmllm\n.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    for written, here in names.items():
        assert written in text
        text = text.replace(written, here)
    exec(compile(text, page, "exec"), {"__name__": page})
    assert "mmllm.Model 'tiny' on" in capsys.readouterr().out
