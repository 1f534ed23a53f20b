"""Who may import whom: the table below is read against every import statement, those inside functions and those under
TYPE_CHECKING included; and no circle, counted in the same way."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERYBODY = {"version", "errors", "types", "modalities", "registry"}
"""Rooms that anybody may use."""
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "modalities": set(),
    "registry": set(),
    "files": set(),
    "recipe": set(),
    "messages": set(),
    "vlms": set(),
    "checks": {"files", "recipe", "messages", "vlms"},
    "hooks": set(),
    "processors": {"files"},
    "encoders": {"hooks", "processors", "vlms"},
    "features": {"files", "hooks", "processors", "encoders"},
    "connectors": {"hooks", "processors", "vlms"},
    "llms": {"files", "hooks", "messages", "vlms"},
    "model": {"recipe", "hooks", "processors", "vlms", "encoders", "features", "connectors", "llms"},
    "datasets": {"files", "recipe", "messages"},
    "drawing": set(),
    "batches": {"messages"},
    "checkpoints": {"files", "recipe", "connectors", "llms", "model"},
    "training": {
        "recipe",
        "messages",
        "hooks",
        "features",
        "connectors",
        "model",
        "datasets",
        "batches",
        "checkpoints",
    },
    "planning": {"recipe", "messages", "llms", "model", "batches", "checkpoints", "training"},
    "generation": {"recipe", "messages", "encoders", "model", "batches", "checkpoints"},
    "sets": {
        "files",
        "recipe",
        "hooks",
        "encoders",
        "connectors",
        "llms",
        "model",
        "checkpoints",
        "generation",
    },
    "published": {
        "recipe",
        "messages",
        "processors",
        "vlms",
        "connectors",
        "model",
        "batches",
        "checkpoints",
        "generation",
    },
    "certificates": {
        "recipe",
        "hooks",
        "messages",
        "processors",
        "vlms",
        "connectors",
        "llms",
        "model",
        "batches",
        "checkpoints",
        "generation",
    },
    "evaluation": {
        "recipe",
        "messages",
        "processors",
        "features",
        "model",
        "datasets",
        "checkpoints",
        "generation",
    },
    "extraction": {"recipe", "messages", "datasets", "generation", "evaluation"},
    "exporting": {
        "recipe",
        "messages",
        "processors",
        "vlms",
        "encoders",
        "connectors",
        "llms",
        "model",
        "batches",
        "checkpoints",
        "generation",
        "published",
        "certificates",
        "evaluation",
    },
    "inspection": {
        "recipe",
        "messages",
        "processors",
        "vlms",
        "encoders",
        "llms",
        "model",
        "datasets",
        "batches",
        "drawing",
    },
    "reporting": {"recipe", "checkpoints", "evaluation", "inspection", "drawing"},
    "serving": {
        "recipe",
        "messages",
        "processors",
        "encoders",
        "model",
        "batches",
        "drawing",
        "checkpoints",
        "generation",
        "sets",
        "inspection",
    },
    "calibration": {"messages", "datasets", "evaluation", "checkpoints", "generation", "serving"},
    "real": {"files", "recipe", "model", "batches", "checkpoints", "training", "generation", "evaluation"},
    "api": {"recipe", "checkpoints", "training", "generation", "evaluation"},
    "version": {"api", "generation"},  # the lazy names of `import mmllm`, under TYPE_CHECKING
    "interop": {"messages", "generation", "api", "exporting"},
    "serve": {"serving"},
    "client": set(),
    "page": {"client"},
    "streamlit_app": {"client", "page"},
}
"""Room -> rooms it may import beside itself and EVERYBODY, all of them above it; an import goes up this list only."""
FREE = {"testing", "miniature", "cli"}
"""Rooms that may import what they need; nothing but the command line imports them."""
FILES = sorted([*ROOT.glob("mmllm/**/*.py"), *ROOT.glob("serve/**/*.py"), *ROOT.glob("streamlit_app.py")])
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def room_of(module: str) -> str | None:
    """Room that a dotted module of this project belongs to; None for other libraries."""
    first, *rest = module.split(".")
    if module in ("serve.client", "serve.views", "serve.markup", "serve.tags"):
        return "client"
    if module.startswith("serve.page"):
        return "page"
    if first in ("serve", "streamlit_app"):
        return first
    if first != "mmllm":
        return None
    return {"__main__": "cli"}.get(rest[0], rest[0]) if rest else "version"


def imports(source: str, module: str, package: bool = False) -> set[str]:
    """Every module that a file's import statements name; ``from a import b`` counts as a.b where that is a module."""
    found = set()
    above = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {one if (one := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found


def imports_of(module: str) -> set[str]:
    """What a file of this project imports."""
    file = MODULES[module]
    return imports(file.read_text(), module, file.name == "__init__.py")


def breaches(source: str, module: str, package: bool = False) -> list[str]:
    """Rooms that this module imports and may not."""
    room = room_of(module)
    assert room is not None
    if room in FREE:
        return []
    allowed = MAY_IMPORT[room] | {room}
    if room not in {"client", "page", "streamlit_app"}:
        allowed |= EVERYBODY
    found = {room_of(name) for name in imports(source, module, package)}
    return sorted(name for name in found if name is not None and name not in allowed)


def circles(graph: dict[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by way of others or directly (Tarjan's strong components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_inside_the_table(module: str) -> None:
    assert room_of(module) in MAY_IMPORT.keys() | FREE, f"{module} has no row in the table"
    file = MODULES[module]
    assert breaches(file.read_text(), module, file.name == "__init__.py") == []


def test_the_table_goes_up_only() -> None:
    order = list(MAY_IMPORT)
    for room, others in MAY_IMPORT.items():
        if room != "version":
            assert all(order.index(other) < order.index(room) for other in others), room


def test_no_circle() -> None:
    graph = {module: sorted(imports_of(module) & MODULES.keys() - {module}) for module in MODULES}
    graph["mmllm"] = []  # what it offers lazily, it does not import
    assert circles(graph) == []


def test_circles_are_found() -> None:
    graph: dict[str, Iterable[str]] = {"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a", "e"], "e": ["d"]}
    assert sorted(circles(graph)) == [["b", "c"], ["d", "e"]]


PARTS = [module for module in MODULES if room_of(module) in ("encoders", "connectors", "processors", "llms")]


@pytest.mark.parametrize("module", PARTS)
def test_model_parts_know_nothing_of_training_or_serving(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports_of(module)}
    assert not roots & {"deepspeed", "fastapi", "streamlit"}


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("mmllm.encoders.x", "from mmllm.connectors.projectors.mlp import M", ["connectors"]),
        ("mmllm.encoders.x", "def f():\n    import mmllm.recipe.load", ["recipe"]),
        ("mmllm.encoders.x", "from mmllm.recipe.models import ComponentSpec", ["recipe"]),
        ("mmllm.encoders.x", "from ..llms import causal_lm", ["llms"]),
        ("mmllm.encoders.x", "from mmllm import checkpoints", ["checkpoints"]),
        ("mmllm.encoders.x", "if TYPE_CHECKING:\n    from mmllm.model.model import MultimodalLM", ["model"]),
        ("mmllm.encoders.x", "from mmllm.encoders.base import Encoder\nfrom mmllm.types import Features", []),
        ("mmllm.types", "from mmllm.recipe import load", ["recipe"]),
        ("mmllm.evaluation.run", "from mmllm.miniature import demo", ["miniature"]),
        ("mmllm.evaluation.run", "from mmllm.testing import check_encoder", ["testing"]),
        ("mmllm.training.run", "import mmllm.cli", ["cli"]),
        ("mmllm.serving.app", "from mmllm.training.run import train", ["training"]),
        ("streamlit_app", "from mmllm.types import Message", ["types"]),
        ("streamlit_app", "from serve.app import app", ["serve"]),
        ("streamlit_app", "from serve.client import Answer", []),
        ("serve.client", "from mmllm.types import Message", ["types"]),
        ("serve.client", "from mmllm.modalities import MODALITIES", ["modalities"]),
        ("mmllm.cli", "from mmllm.miniature import demo", []),
    ],
)
def test_the_reader_of_imports_sees_breaches(module: str, source: str, found: list[str]) -> None:
    assert breaches(source, module) == found
