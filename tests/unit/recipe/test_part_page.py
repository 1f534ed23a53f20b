"""`mmllm ls PART`: arguments with types, defaults and meanings, the paper, the kind and a line that a recipe takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmllm import registry
from mmllm.cli import main
from mmllm.recipe import part_arguments
from mmllm.recipe.part_page import groups_of, page
from mmllm.registry import described

PARTS = [(group, name) for group in registry.groups() for name in registry.table(group)]


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_every_part_has_a_page(group: str, name: str) -> None:
    text = page(group, name)
    assert text.startswith(f"{name}: {group.removesuffix('s')}")
    shown, _, end = text.partition("arguments:\n")[2].partition("\nclass: ")
    for argument, parameter in part_arguments.accepted(group, name).items():
        line = next(line for line in shown.splitlines() if re.match(rf"  {argument}\b", line))
        assert parameter.annotation in line
        assert ("=" in line) == (not parameter.required)
        if parameter.default.isupper():  # a constant: its value stands there
            assert parameter.default not in line, line
    assert registry.locate(group, name) in end
    assert max(map(len, text.splitlines())) <= 250


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_its_line_has_arguments_of_the_part(group: str, name: str) -> None:
    ((section, entries),) = yaml.safe_load(page(group, name).rpartition("recipe: ")[2]).items()
    known = {"type", "from", "when", "adapts", "times", "system", *part_arguments.accepted(group, name)}
    if section == "eval":
        named = entries["benchmarks"]
        assert list(named) == [name] and (isinstance(named, list) or named[name].keys() <= known)
        return
    ((_, entry),) = entries.items()
    assert entry["type"] == name and entry.keys() <= known
    needed = {one for one, parameter in part_arguments.accepted(group, name).items() if parameter.required}
    assert needed <= entry.keys()


def test_a_page_from_its_docstrings() -> None:
    text = page("connectors", "lora")
    assert text.splitlines()[0] == "lora: connector (LLM adapter, inside the LLM)"
    assert "  rank: int = 16                             r, width of the bottleneck.\n" in text
    assert "paper:  arXiv 2106.09685, arXiv 2312.03732\n" in text


def test_constants_stand_as_values() -> None:
    assert "max_pixels: int = 50000000" in page("encoders", "open_clip")
    assert "question: str = what digit is it?" in page("datasets", "fsdd")


def test_a_name_of_two_groups_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert groups_of("fsdd") == ["datasets", "benchmarks"]
    assert main(["ls", "fsdd"]) == 0
    said = capsys.readouterr().out
    assert "fsdd: dataset\n" in said and "fsdd: benchmark\n" in said


@pytest.mark.parametrize(
    ("name", "near"), [("pol", "pool"), ("conectors", "connectors"), ("docvq", "docvqa"), ("open-clip", "open_clip")]
)
def test_a_name_that_there_is_not(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", name]) == 2
    said = capsys.readouterr()
    groups = "encoders, connectors, datasets, benchmarks, recipes"
    assert said.err == f'mmllm: "{name}" is neither a group ({groups}) nor a part; did you mean "{near}"?\n'
    assert said.out == ""


def test_nothing_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "zzzzzz"]) == 2
    assert capsys.readouterr().err.endswith("nor a part; `mmllm ls` lists all names.\n")


def test_a_class_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "paged_part.py").write_text(
        "from mmllm.connectors.llm_adapters.lora import LoraConnector\n"
        'class Mine(LoraConnector):\n    """Mine (Some One 2031, arXiv 3101.00001)."""\n'
        "class Kindless:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["ls", "paged_part:Mine"]) == 0
    said = capsys.readouterr()
    assert said.err == "mmllm: importing paged_part:Mine, a class of another package.\n"
    assert said.out.startswith("paged_part:Mine: connector (LLM adapter, inside the LLM)\n")
    assert "rank: int = 16" in said.out and "arXiv 3101.00001" in said.out
    assert said.out.endswith('recipe: connectors: {image: {type: "paged_part:Mine"}}\n')
    assert main(["ls", "paged_part:Kindless"]) == 2
    assert (
        "is no part: its class derives from none of Encoder, Connector, Dataset, Benchmark." in capsys.readouterr().err
    )


def test_args_of_a_docstring() -> None:
    text = "Do.\n\nArgs:\n    one: first,\n        goes on\n    two (int): second: more\n\nRaises:\n    Error: never."
    assert described(text) == {"one": "first, goes on", "two": "second: more"}


def test_pages_need_no_torch() -> None:
    code = (
        "import sys; from mmllm.cli import main; main(['ls', 'gated_cross_attention']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
