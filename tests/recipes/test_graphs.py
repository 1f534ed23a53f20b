"""The recipes of graphs, full size and miniature, with stand-ins for what is large."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmllm import registry
from mmllm.miniature.tasks.graphs import write_graph
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.datasets import write_planetoid, write_text_attributed_graph
from tests.support.parts import tiny_llm_folder
from tests.support.talks import packed


def small_parts(name: str, tmp_path: Path) -> list[str]:
    """Overrides of a recipe: small parts and data in ``tmp_path``."""
    if name == "mini/cora":
        write_planetoid(tmp_path / "data")
        asked = {"source": "planetoid", "name": "tiny", "path": str(tmp_path / "data")}
        return [
            f"data.nodes={json.dumps({'type': 'planetoid', 'name': 'tiny', 'path': asked['path']})}",
            f"eval.benchmarks={json.dumps({'node_classification': asked})}",
            "encoders.graph.width=6",
        ]
    if name.startswith("mini/"):
        write_graph(tmp_path, 20, 3, 0)
        return [f"data.instruct.path={tmp_path / 'instruct.jsonl'}"]
    tiny_encoders.write_text_model(str(tmp_path / "text"))
    write_text_attributed_graph(tmp_path / "data")
    return [
        f"llm.path={tiny_llm_folder(tmp_path, 'qwen2', max_position_embeddings=4096)}",
        "llm.dtype=float32",
        f"encoders.graph.model={tmp_path / 'text'}",
        f"data.nodes.path={tmp_path / 'data'}",
        f"eval.benchmarks.node_classification.path={tmp_path / 'data'}",
    ]


RECIPES = ["graph_adapter", "graph_tokens", "mini/graph_adapter", "mini/graph_tokens", "mini/cora"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_learn(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(folder() / f"{name}.yaml", small_parts(name, tmp_path))
    model = build(recipe, "cpu")
    for key, part in recipe.data.items():
        source = registry.load("sources", part.type)(**part.args)
        batch = packed(model, [source[number] for number in range(2)])
        assert key in recipe.stages["learn"].data
    (stage,) = recipe.stages.values()
    set_trainable(model, stage.train)
    model.train()
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for _ in range(2):  # LoRA's A gets a gradient once its B has moved
        torch.manual_seed(0)
        nll, extra, _ = model(batch)
        (nll / batch.n_labels + extra).backward()
        with torch.no_grad():
            for parameter in learning.values():
                assert parameter.grad is not None
                parameter -= 1e-2 * parameter.grad
    assert nll.isfinite()
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    asked = dict(recipe.eval.benchmarks)
    if "node_classification" in asked:
        assert len(registry.load("benchmarks", "node_classification")(**asked["node_classification"])) == 2
