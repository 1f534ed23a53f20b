"""The pages say what the code says: generated parts, moved tables, paths, links, tests they name, and recipes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import links, make
from docs.write.connectors import facts
from docs.write.errors import GOOD, MISTAKES, said
from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.load import LATER, OF_DATA, parse
from tests.support.places import ROOT

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"])
SLOW = ("table",)
ELSEWHERE = ("published",)
"""Blocks that other tests compare row by row, as they make them anyway."""
"""Blocks that make parts with weights."""
TABLES = {
    "results": "benchmarks/RESULTS.md",
    "connectors": "benchmarks/CONNECTORS.md",
    "senses": "benchmarks/SENSES.md",
}
"""Block of docs/results.md -> file that the same command writes."""
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def block(page: str, name: str) -> str:
    """What a command writes between the marks of a page."""
    text = (ROOT / page).read_text()
    return text.split(f"<!-- {name}: ")[1].partition("-->")[2].split(f"<!-- end of {name} -->")[0].strip()


def fenced(page: Path, language: str) -> Iterator[str]:
    """Blocks of one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", [name for name in make.BLOCKS if name not in (*SLOW, *ELSEWHERE)])
def test_generated_parts_are_what_the_command_writes(name: str) -> None:
    assert make.written(name) == make.BLOCKS[name][1](), f"run: python -m docs.make {name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_generated_parts_that_take_weights(name: str) -> None:
    assert make.written(name) == make.BLOCKS[name][1](), f"run: python -m docs.make {name}"


def test_the_table_of_connectors_has_every_connector() -> None:
    rows = [line for line in make.written("table").splitlines() if line.startswith("| `")]
    expected = ["| " + " | ".join(facts(name)) + " |" for name in registry.table("connectors")]
    assert [row[: len(begin)] for row, begin in zip(rows, expected, strict=True)] == expected


def test_writing_a_block_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "architecture.md"
    text = (make.HERE / page.name).read_text()
    page.write_text(text.replace(make.written("rooms"), "old"))
    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main(["rooms"])
    assert page.read_text() == text
    with pytest.raises(SystemExit, match="there is no block room; known: sections"):
        make.main(["room"])


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_each_mistake_is_one(mistake: Any) -> None:
    assert said(GOOD).startswith("my.yaml: ok")
    assert said(GOOD.replace(mistake.right, mistake.wrong)).startswith("mmllm: my.yaml:")


@pytest.mark.parametrize("name", TABLES)
def test_measured_tables_stand_in_both_places(name: str) -> None:
    assert block("docs/results.md", name) in (ROOT / TABLES[name]).read_text()


def test_the_readme_shows_rows_of_the_results() -> None:
    rows = block("README.md", "results").splitlines()
    assert len(rows) == 2 + 5
    assert set(rows) <= set(block("docs/results.md", "results").splitlines())


def test_commands_find_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import connectors, demo, senses

    for name in ("README.md", "docs/results.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    row = {"metric": "exact_match", "score": 0.5, "blind": 0.25, "n": 7, "seed": 0}
    rows = [{**row, "recipe": name, "benchmark": f"of_{name}"} for name in demo.RECIPES]
    monkeypatch.setattr(demo, "shown", lambda run: "what it says")
    for module in (connectors, senses):
        monkeypatch.setattr(module, "table", lambda chosen: f"{len(chosen)} lines")
        monkeypatch.setattr(module, "machine", lambda: "a machine")
    monkeypatch.setattr(demo, "machine", lambda: "a machine")
    demo.write(rows)
    connectors.write(["pool"])
    senses.write(["video", "sound"])
    page, readme = (tmp_path / "docs/results.md").read_text(), (tmp_path / "README.md").read_text()
    assert all(f"| of_{name} |" in page for name in demo.RECIPES)
    assert "| of_demo |" in readme and "| of_easy_vqa |" in readme and "of_swap_encoder" not in readme
    assert "1 lines\n\n<!-- end of connectors -->" in page and "2 lines\n\n<!-- end of senses -->" in page
    assert "what it says" in readme


def test_each_public_part_of_data_is_in_the_table() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    for group in ("datasets", "benchmarks"):
        for name in registry.table(group):
            assert f"`{name}`" in text or name.startswith("mini_"), f"{name} is missing in docs/data.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            heads = {slug(head) for head in HEADING.findall(file.read_text())}
            assert anchor in heads, f"{page.name}: {target}; known: {sorted(heads)}"


def slug(heading: str) -> str:
    """Anchor of a heading, as forges and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_tests_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if page.name == "log.md":
        return  # what was tried stands there as it was
    for path in re.findall(r"`((?:mmllm|tests|benchmarks|docs|recipes|serve|scripts)/[\w./-]+)", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{name}"
    if page.name == "architecture.md":
        for path in re.findall(r"(?<![\w/])((?:\w+/)+\w+\.py)", page.read_text()):
            assert (ROOT / path).exists() or (ROOT / "mmllm" / path).exists(), path


def test_words_of_today_are_in_the_code() -> None:
    words = (ROOT / "docs" / "architecture.md").read_text().split("## Words")[1]
    rows = [line.split("|") for line in words.splitlines() if line.startswith("| ") and "`" in line]
    code = "\n".join(file.read_text() for file in ROOT.glob("mmllm/**/*.py"))
    assert len(rows) > 30
    for row in rows:
        for word in re.findall(r"`([^`]+)`", row[2]):
            name = word.partition("(")[0].rstrip("/:").rpartition(".")[2]
            assert re.search(rf"\b{name}\b", code) or (ROOT / "mmllm" / word).is_dir(), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_of_the_pages_are_right(page: Path) -> None:
    for text in fenced(page, "yaml"):
        found = yaml.safe_load(text) if not text.startswith(" ") else None
        if not isinstance(found, dict):
            continue
        if "llm" in found and "stages" in found:
            parse(text, file="my.yaml")
        for section, group in (("encoders", "encoders"), ("connectors", "connectors"), ("data", "datasets")):
            for key, part in found.get(section, {}).items():
                if ":" in part["type"] or part["type"] == "bilinear":
                    continue  # of docs/extending.md
                words = ("type", "from", "when", *LATER, *OF_DATA)
                given = {word: value for word, value in part.items() if word not in words}
                assert part_arguments.problems(group, part["type"], given) == [], f"{page.name}: {section}.{key}"


def test_the_trial_of_the_quickstart_is_a_recipe() -> None:
    page = ROOT / "docs" / "quickstart.md"
    (recipe,) = [text for text in fenced(page, "yaml") if text.startswith("# file: my.yaml")]
    (command,) = [line for line in page.read_text().splitlines() if line.endswith("--out runs/try")]
    tried = parse(recipe, [word for word in command.split() if "=" in word], file="my.yaml")
    assert [stage.steps for stage in tried.stages.values()] == [20, 20]


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("see [the table](../benchmarks/RESULTS.md).", "see the table (`benchmarks/RESULTS.md`)."),
        ("[benchmarks/RESULTS.md](../benchmarks/RESULTS.md)", "`benchmarks/RESULTS.md`"),
        ("[serve](../serve/README.md#nginx)", "serve (`serve/README.md`)"),
        ("[recipes](recipes.md#serve)", "[recipes](recipes.md#serve)"),
    ],
)
def test_links_that_leave_the_pages_become_paths(markdown: str, shown: str) -> None:
    assert links.on_page_markdown(markdown) == shown
