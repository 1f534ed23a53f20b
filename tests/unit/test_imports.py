"""Who may import whom: the table below is read against every import statement, those inside functions included."""

import ast
from pathlib import Path

import pytest

from tests.support.places import ROOT

EVERYBODY = {"types", "registry", "hooks"}
"""They import nothing of mmllm, and anybody may use them."""
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "registry": set(),
    "hooks": set(),
    "recipe": set(),
    "encoders": set(),
    "connectors": set(),
    "llms": set(),
    "sources": set(),
    "assembly": {"recipe", "encoders", "connectors", "llms"},
    "batches": {"recipe"},
    "checkpoint": {"recipe", "assembly"},
    "stages": {"recipe", "assembly", "checkpoint", "sources", "batches"},
    "generate": {"assembly", "checkpoint", "batches"},
    "eval": {"recipe", "checkpoint", "generate", "sources"},
    "serve": {"checkpoint", "generate", "encoders"},  # previews are drawn from what the encoders' readers give
    "client": set(),
    "streamlit_app": {"client"},
}
"""Row of the table -> rows it may import beside itself and EVERYBODY. `mini` and `cli` may import what they need."""
FREE = {"mini", "cli"}
SPLIT = {
    "recipe": ("recipe", "recipe_models", "recipe_checks", "recipe_sentences", "recipe_schema", "recipe_files",
               "yaml_lines", "part_arguments"),
    "checkpoint": ("checkpoint", "checkpoint_files"),
    "generate": ("generate", "sampling"),
}  # fmt: skip
"""Rows that are several files of the package's top level."""
ROW = {name: row for row, names in SPLIT.items() for name in names} | {"__main__": "cli", "__init__": "version"}
FILES = sorted([*ROOT.glob("mmllm/**/*.py"), *ROOT.glob("serve/**/*.py"), *ROOT.glob("streamlit_app.py")])


def row_of(module: str) -> str | None:
    """Row of the table that a dotted module of this project belongs to; None for other libraries."""
    first, *rest = module.split(".")
    if module == "serve.client":
        return "client"
    if first in ("serve", "streamlit_app"):
        return first
    if first != "mmllm":
        return None
    return ROW.get(rest[0], rest[0]) if rest else "version"


def module_of(file: Path) -> str:
    """Dotted name of a file."""
    dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def imports(tree: ast.AST, package: str) -> set[str]:
    """Every module a file's import statements name; `from a import b` counts as a.b where a is a bare package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "mmllm" else {base}
    return {name.removesuffix(".__version__") for name in found}


def breaches(source: str, module: str, package: str) -> list[str]:
    """Rows that this module imports and may not."""
    row = row_of(module)
    assert row is not None
    if row in FREE:
        return []
    allowed = MAY_IMPORT.get(row, set()) | {row, "version"}
    if row not in EVERYBODY | {"client", "streamlit_app"}:
        allowed |= EVERYBODY
    found = {row_of(name) for name in imports(ast.parse(source), package)}
    return sorted(name for name in found if name is not None and name not in allowed)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_stay_inside_the_table(file: Path) -> None:
    module = module_of(file)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    assert row_of(module) in MAY_IMPORT.keys() | FREE | {"version"}, f"{module} has no row in the table"
    assert breaches(file.read_text(), module, package) == []


PARTS = [file for file in FILES if file.parent.name in ("encoders", "connectors")]


@pytest.mark.parametrize("file", PARTS, ids=module_of)
def test_model_parts_know_nothing_of_training_or_serving(file: Path) -> None:
    roots = {name.partition(".")[0] for name in imports(ast.parse(file.read_text()), "mmllm")}
    assert not roots & {"deepspeed", "fastapi", "streamlit"}


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("mmllm.encoders.x", "from mmllm.connectors.projectors.mlp import M", ["connectors"]),
        ("mmllm.encoders.x", "def f():\n    import mmllm.recipe", ["recipe"]),
        ("mmllm.encoders.x", "from mmllm.recipe.models import Part", ["recipe"]),
        ("mmllm.encoders.x", "from ..llms import hf", ["llms"]),
        ("mmllm.encoders.x", "from mmllm import checkpoint", ["checkpoint"]),
        ("mmllm.encoders.x", "from mmllm.encoders.base import Encoder\nfrom mmllm.types import Features", []),
        ("mmllm.types", "from mmllm import registry", ["registry"]),
        ("mmllm.evaluation.run", "from mmllm.miniature import demo", ["mini"]),
        ("mmllm.training.run", "import mmllm.cli", ["cli"]),
        ("mmllm.serving.app", "from mmllm.model.model import Assembly", ["assembly"]),
        ("streamlit_app", "from mmllm.types import Message", ["types"]),
        ("streamlit_app", "from mmllm.serving.api import Api", ["serve"]),
        ("streamlit_app", "from serve.client import Answer", []),
        ("serve.client", "from mmllm.types import Message", ["types"]),
        ("serve.client", "from mmllm.modalities import SENSES", ["serve"]),
        ("mmllm.cli", "from mmllm.miniature import demo", []),
    ],
)
def test_the_reader_of_imports_sees_breaches(module: str, source: str, found: list[str]) -> None:
    assert breaches(source, module, module.rpartition(".")[0]) == found
