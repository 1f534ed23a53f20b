"""A connector outside the package is understood however its base class is spelled (`plugin_bases.sh` was the case)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmllm import registry
from mmllm.errors import RecipeError
from mmllm.recipe import part_arguments
from mmllm.recipe.load import load_recipe
from mmllm.registry import UnknownName
from tests.support.places import ROOT

MODULES = {
    "mine_a": '''
from mmllm.connectors.llm_adapters.lora import LoraConnector
class Mine(LoraConnector):
    """Base by its own name."""
''',
    "mine_b": '''
from mmllm.connectors.llm_adapters import lora
class Mine(lora.LoraConnector):
    """The same class, base named through its module."""
''',
    "mine_c": '''
from typing import Optional
from mmllm.connectors.projectors import pool
class Mine(pool.PoolConnector):
    """An annotation and a base that a reader of source text would not know."""
    def __init__(self, *, dim: int, llm_dim: int, extra: Optional[int] = None, **rest) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim, **rest)
''',
    "mine_d": '''
import mmllm.connectors.base as base
class Mine(base.LLMAdapter):
    """Works inside the LLM and has something to report."""
    has_metrics = True
    def __init__(self, *, llm_dim: int) -> None:
        super().__init__(llm_dim=llm_dim)
    def attach(self, llm):
        return base.Handle.of([])
    def metrics(self, ctx):
        return {"n": 1}
''',
    "mine_e": '''
import mmllm.connectors
class Mine(mmllm.connectors.PoolConnector):
    """Base through the package that lists the parts."""
''',
    "mine_f": '''
def made():
    from mmllm.connectors.base import DeepFusion
    return DeepFusion
class Mine(made()):
    """Base that only running the module tells."""
    def __init__(self, *, llm_dim: int, dim: int = 0, **words) -> None:
        super().__init__(llm_dim=llm_dim, dim=dim)
''',
    "mine_g": '''
from mmllm.connectors.base import Connector
class Mine(Connector):
    """Of no kind."""
''',
}  # fmt: skip


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules lie in a folder on the path, as a user's own do."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def recipe(folder: Path, old: str, new: str) -> Path:
    """The miniature recipe of `pool` with a part of the user's own."""
    text = (ROOT / "recipes" / "mini" / "pool.yaml").read_text()
    assert old in text
    file = folder / "recipe.yaml"
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize("module", ["mine_a", "mine_b"])
def test_a_subclass_takes_the_arguments_of_its_base(module: str, tmp_path: Path) -> None:
    file = recipe(tmp_path, "type: lora, rank: 16", f"type: {module}:Mine, rank: 16")
    assert load_recipe(file).connectors["lora"].type == f"{module}:Mine"
    assert (
        registry.parameters("connectors", f"{module}:Mine").keys() == registry.parameters("connectors", "lora").keys()
    )
    assert part_arguments.kinds(f"{module}:Mine") == {"LLMAdapter"}
    file = recipe(tmp_path, "type: lora, rank: 16", f"type: {module}:Mine, ranks: 16")
    with pytest.raises(RecipeError, match=rf'lora\.ranks: unknown argument of {module}:Mine; .*did you mean "rank"\?'):
        load_recipe(file)


def test_a_wrong_value_and_an_unknown_word_are_two_errors(tmp_path: Path) -> None:
    file = recipe(tmp_path, "type: pool, from: image", "type: mine_c:Mine, extra: banana, gird: [2, 2], from: image")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    wrong, unknown = str(caught.value).split("\n")
    assert 'connectors.image.extra: found "banana" (text), expected ' in wrong
    assert "connectors.image.gird: unknown argument of mine_c:Mine; known: extra, grid" in unknown
    assert unknown.endswith('did you mean "grid"?')
    good = recipe(tmp_path, "type: pool, from: image", "type: mine_c:Mine, extra: 3, from: image")
    assert load_recipe(good).connectors["image"].args["extra"] == 3


def test_a_subclass_of_a_base_is_of_its_kind(tmp_path: Path) -> None:
    assert registry.bases("connectors", "mine_d:Mine") == ["LLMAdapter", "Connector"]
    assert part_arguments.works_inside("mine_d:Mine") and part_arguments.takes_features("mine_d:Mine") is False
    assert registry.load("connectors", "mine_d:Mine").has_metrics
    assert registry.summary("connectors", "mine_d:Mine") == "Works inside the LLM and has something to report."
    file = recipe(tmp_path, "type: lora, rank: 16, alpha: 32", "type: mine_d:Mine")
    assert load_recipe(file).connectors["lora"].args == {}


def test_bases_in_any_spelling() -> None:
    assert part_arguments.kinds("mine_e:Mine") == {"Projector"}
    assert (
        part_arguments.accepted("connectors", "mine_e:Mine").keys()
        == part_arguments.accepted("connectors", "pool").keys()
    )
    assert part_arguments.kinds("mine_f:Mine") == {"DeepFusion"}
    assert part_arguments.takes_features("mine_f:Mine") is None  # with and without
    with pytest.raises(UnknownName, match=r'"mine_g:Mine" is no connector: its class must derive from Projector, '):
        part_arguments.kinds("mine_g:Mine")


def test_a_class_that_a_package_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defined in a module of the package, re-exported by its ``__init__``."""
    package = tmp_path / "named_parts"
    package.mkdir()
    (package / "__init__.py").write_text("from named_parts.inner import Mine\n")
    (package / "inner.py").write_text(
        "from mmllm.connectors.llm_adapters.lora import LoraConnector\n\n\n"
        'class Mine(LoraConnector):\n    """LoRA by another name."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.summary("connectors", "named_parts:Mine") == "LoRA by another name."
    assert part_arguments.kinds("named_parts:Mine") == {"LLMAdapter"}
    assert "rank" in registry.parameters("connectors", "named_parts:Mine")
    with pytest.raises(registry.UnknownName, match='module named_parts has no class Mind; did you mean "Mine"'):
        registry.load("connectors", "named_parts:Mind")
