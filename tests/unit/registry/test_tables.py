"""The registry answers of built-in parts from source text, of others by import: names, arguments, bases, summaries."""

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from mmllm import registry
from mmllm.connectors import BASES
from mmllm.recipe import part_arguments
from mmllm.registry import Parameter, UnknownName, signatures, tables

EVERY = [(group, name) for group in registry.groups() for name in registry.table(group)]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_every_name_has_a_class_and_a_summary(group: str, name: str) -> None:
    assert len(registry.summary(group, name)) > 10
    assert not [parameter.name for parameter in registry.parameters(group, name).values() if not parameter.annotation]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_load_agrees_with_the_source_text(group: str, name: str) -> None:
    found = registry.load(group, name)
    assert f"{found.__module__}:{found.__name__}" == registry.locate(group, name)


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_source_text_and_import_say_the_same(group: str, name: str) -> None:
    """Of arguments and bases: a built-in part is read as it is when imported."""
    kind: Any = registry.load(group, name)
    read, imported = registry.parameters(group, name), signatures._inspected(kind)
    assert [(one.name, one.required, one.variadic) for one in read.values()] == [
        (one.name, one.required, one.variadic) for one in imported.values()
    ]
    inherited = [one.__name__ for one in kind.__mro__ if one.__module__.startswith("mmllm.")]
    assert set(registry.bases(group, name)) == set(inherited)


@pytest.mark.parametrize("name", registry.table("connectors"))
def test_the_kind_of_a_connector_is_its_base(name: str) -> None:
    kinds = part_arguments.kinds(name)
    assert kinds and kinds <= set(BASES)
    attaches_to_the_llm = hasattr(registry.load("connectors", name), "attach") and "EncoderAdapter" not in kinds
    assert part_arguments.works_inside(name) == attaches_to_the_llm


def test_parameters_own_and_inherited() -> None:
    found = registry.parameters("connectors", "tests.support.recipe_parts:Inherited")
    assert [replace(one, hint=None) for one in found.values()] == [
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
    assert [one.hint for one in inner.values()] == [int, int, float]
    assert registry.parameters("datasets", "tests.support.recipe_parts:Open")["anything"].variadic


def test_a_class_as_annotation_says_nothing_of_what_a_recipe_writes() -> None:
    assert part_arguments.problems("datasets", "tests.support.recipe_parts:Odd", {"path": "a", "cut": "b"}) == []
    found = part_arguments.problems("datasets", "tests.support.recipe_parts:Odd", {"path": 3})
    assert found == [("path", "found 3 (a whole number), expected str")]


def test_summary_is_the_first_line() -> None:
    assert (
        registry.summary("connectors", "tests.support.recipe_parts:Projector") == "A connector between encoder and LLM."
    )


def test_reading_built_in_parts_does_not_import_them() -> None:
    code = (
        "import sys\nfrom mmllm import registry\nfrom mmllm.recipe import part_arguments\n"
        "for group in registry.groups():\n"
        "    for name in registry.table(group):\n"
        "        registry.summary(group, name), registry.parameters(group, name), registry.bases(group, name)\n"
        "assert part_arguments.takes_several('concat') and not part_arguments.takes_several('pool')\n"
        "print({'torch', 'transformers', 'mmllm.connectors.base', 'mmllm.encoders.base'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "import nowhere_at_all\n",
            r"importing mine fails \(ModuleNotFoundError: No module named 'nowhere_at_all'\)\.",
        ),
        ("1 / 0\n", r"importing mine fails \(ZeroDivisionError: division by zero\)\."),
        ("", r"module mine has no class Part; did you mean \"Parts\"\?"),
    ],
)
def test_a_part_that_cannot_be_imported_is_one_sentence(
    content: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    name = "Part" if content else "Parts"
    (tmp_path / "mine.py").write_text(f"{content}class {name}:\n    pass\n")
    signatures.tree_of.cache_clear()
    with pytest.raises(UnknownName, match=sentence):
        registry.parameters("encoders", "mine:Part")
    signatures.tree_of.cache_clear()


def test_a_file_that_is_not_python_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unfinished.py").write_text("x = 1\nclass Part(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownName, match=r"module unfinished cannot be read: .*unfinished\.py, line 2: "):
        registry.parameters("encoders", "unfinished:Part")


@pytest.mark.parametrize(
    ("group", "name", "sentence"),
    [
        ("encoder", "x", r'there is no group "encoder"; known: .*; did you mean "encoders"\?'),
        ("sources", "chat_json", r'datasets has no type "chat_json"; known: .*; did you mean "chat_jsonl"\?'),
        ("datasets", "zzzzzz", r'datasets has no type "zzzzzz"; known: [a-z_, ]*\.'),
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
    monkeypatch.setattr(tables, "_declared", lambda path: EntryPoints(points))


@pytest.mark.parametrize("group", ["mmllm.datasets", "mmllm.sources"])
def test_entry_points_add_names(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under today's name of the group and the one before it."""
    _declare(monkeypatch, EntryPoint("mine", "tests.support.recipe_parts:Source", group))
    for asked in ("datasets", "sources"):
        assert registry.table(asked)["mine"] == "tests.support.recipe_parts:Source"
    assert "mine" not in registry.table("encoders")
    assert registry.summary("datasets", "mine") == "A dataset."


def test_entry_points_may_not_redefine_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch, EntryPoint("chat_jsonl", "tests.support.recipe_parts:Source", "mmllm.datasets"))
    with pytest.raises(UnknownName, match=r"redefines mmllm\.datasets\.chat:Chat"):
        registry.table("datasets")
