"""The recipes of points and of documents with stand-ins of the same families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.datasets import write_modelnet
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import open_clip_folder
from tests.support.talks import document_talks, object_talks, packed


@pytest.mark.parametrize(("backbone", "axes"), [("language", 1), ("image", 2)])
def test_any2point_with_stand_ins(backbone: str, axes: int, tmp_path: Path) -> None:
    """The recipe as shipped, its frozen parts small: 1024 points, 128 tokens, 81 neighbours; language and image arm."""
    (tmp_path / "clip").mkdir()
    open_clip_folder(tmp_path / "clip", {"image_size": 28, "patch_size": 7})
    write_modelnet(tmp_path / "objects", "train")
    overrides = [
        f"llm.path={tiny_llm_folder(tmp_path, 'qwen2')}", "llm.dtype=float32", "encoders.points.pretrained=",
        f"encoders.points.model={tmp_path / 'clip'}", f"encoders.points.backbone={backbone}",
        f"data.objects.path={tmp_path / 'objects'}", "llm.context=256",
    ]  # fmt: skip
    recipe = load_recipe(folder() / "any2point.yaml", overrides)
    model = build(recipe, "cpu")
    assert model.encoders["points"].positions.dim() == axes + 1
    batch = packed(model, object_talks(tmp_path / "objects", 1))
    assert len(batch.media_positions["points"]) == 17
    set_trainable(model, recipe.stages["align"].train)
    nll, *_ = model(batch)
    nll.backward()
    assert torch.isfinite(nll) and model.connectors["points"].head[0].weight.grad.abs().sum() > 0


def test_text_memory_with_stand_ins(tmp_path: Path) -> None:
    """Every stage of the recipe as shipped learns on small parts of the same families."""
    llm, small = tiny_llm_folder(tmp_path, "qwen2"), tiny_llm_folder(tmp_path / "small", "qwen2", seed=1)
    overrides = [f"llm.path={llm}", "llm.dtype=float32", "llm.context=256", f"encoders.document.model={small}"]
    overrides += ["encoders.document.max_tokens=128"]
    recipe = load_recipe(folder() / "text_memory.yaml", overrides)
    model = build(recipe, "cpu")
    batch = packed(model, document_talks(tmp_path, 1))
    assert len(batch.media_positions["document"]) == 64
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        nll, *_ = model(batch)
        nll.backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert torch.isfinite(nll) and sum(p.grad is not None and bool(p.grad.any()) for p in learning) > 0.7 * len(
            learning
        )
