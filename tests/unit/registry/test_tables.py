"""The registry answers from source text: names, arguments, summaries; classes are imported only by load."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mmllm import registry
from mmllm.registry import Parameter, UnknownName

EVERY = [(group, name) for group in registry.groups() for name in registry.table(group)]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_every_name_has_a_class_and_a_summary(group: str, name: str) -> None:
    assert len(registry.summary(group, name)) > 10
    assert not [parameter.name for parameter in registry.parameters(group, name).values() if not parameter.annotation]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_load_agrees_with_the_source_text(group: str, name: str) -> None:
    found = registry.load(group, name)
    assert f"{found.__module__}:{found.__name__}" == registry.locate(group, name)


def test_parameters_own_and_inherited() -> None:
    found = registry.parameters("connectors", "tests.support.recipe_parts:Inherited")
    assert list(found.values()) == [
        Parameter("grid", "tuple[int, int]", True, ""),
        Parameter("act", "Literal['gelu', 'relu']", False, "'gelu'"),
        Parameter("dim", "int", True, ""),
        Parameter("llm_dim", "int", True, ""),
        Parameter("bias", "bool", False, "True"),
    ]


def test_parameters_positional_and_open() -> None:
    inner = registry.parameters("connectors", "tests.support.recipe_parts:Inner")
    assert [(p.name, p.required, p.default) for p in inner.values()] == [
        ("llm_dim", True, ""),
        ("rank", False, "8"),
        ("scale", False, "1.0"),
    ]
    assert registry.parameters("connectors", "tests.support.recipe_parts:Open")["anything"].variadic


def test_summary_is_the_first_line() -> None:
    assert (
        registry.summary("connectors", "tests.support.recipe_parts:Projector") == "A connector between encoder and LLM."
    )


def test_reading_a_part_does_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')\nclass Part:\n    '''Quiet.'''\n")
    code = "from mmllm import registry; print(registry.summary('encoders', 'loud:Part'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "Quiet.\n"


@pytest.mark.parametrize(
    ("group", "name", "sentence"),
    [
        ("encoder", "x", r'there is no group "encoder"; known: .*; did you mean "encoders"\?'),
        ("sources", "chat_json", r'sources has no type "chat_json"; known: .*; did you mean "chat_jsonl"\?'),
        ("sources", "zzzzzz", r'sources has no type "zzzzzz"; known: [a-z_, ]*\.'),
        ("sources", "mmllm.datasets:X", '"mmllm.datasets:X" cannot be found: module mmllm.datasets has no class X.'),
        ("sources", "no.such:X", '"no.such:X" cannot be found: there is no module no.such.'),
        ("sources", "mmllm.types.no:X", '"mmllm.types.no:X" cannot be found: there is no module mmllm.types.no.'),
    ],
)  # fmt: skip
def test_unknown(group: str, name: str, sentence: str) -> None:
    with pytest.raises(UnknownName, match=f"^{sentence}$"):
        registry.load(group, name)


def _declare(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    """As if an installed package declared these entry points."""
    monkeypatch.setattr(registry, "_points", lambda group, path: [p for p in points if p.group == f"mmllm.{group}"])


def test_entry_points_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch, EntryPoint("mine", "tests.support.recipe_parts:Source", "mmllm.datasets"))
    assert registry.table("sources")["mine"] == "tests.support.recipe_parts:Source"
    assert "mine" not in registry.table("encoders")
    assert registry.summary("sources", "mine") == "A data source."


def test_entry_points_may_not_redefine_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch, EntryPoint("chat_jsonl", "tests.support.recipe_parts:Source", "mmllm.datasets"))
    with pytest.raises(UnknownName, match=r"redefines mmllm\.sources\.chat_jsonl:ChatJsonl"):
        registry.table("sources")
