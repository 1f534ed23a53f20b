"""Each full-size recipe runs with stand-ins: the same architectures, picture sizes and connectors, tiny widths."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from tests.support.assemblies import Row, batch_of
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.two_steps import two_steps

# Recipe -> (family of its LLM, its encoder's kind, side of the pictures that encoder gets, tokens of one picture)
RUNS = {
    "image_mlp": ("qwen2", "clip", 336, 576),
    "image_pool": ("qwen2", "open_clip", 336, 144),
    "image_pixel_shuffle": ("llama", "siglip", 384, 81),
    "image_resampler": ("qwen3", "dinov2", 224, 64),
    "image_lora": ("qwen2", "siglip", 384, 729),
    "llama_adapter": ("qwen2", "clip", 336, 0),
    "llama_adapter_v2": ("qwen2", "clip", 336, 0),
    "layerwise": ("qwen2", "clip", 336, 0),
    "gated_cross_attention": ("qwen2", "open_clip", 224, 0),
    "cross_attention_layers": ("llama", "siglip", 384, 0),
    "deepstack": ("qwen2", "clip", 336, 144),
    "dense_connector": ("qwen2", "clip", 336, 576),
    "hydra": ("qwen2", "clip", 336, 576),
    "series_adapter": ("qwen2", "clip", 336, 576),
    "parallel_adapter": ("qwen2", "clip", 336, 576),
    "peft_dora": ("qwen2", "clip", 336, 576),
    "inner_adaptor": ("llama", "clip", 336, 576),
    "pill": ("qwen2", "clip", 336, 32),
    "llava_mole": ("qwen2", "clip", 336, 576),
    "mola": ("qwen2", "clip", 336, 576),
    "meteora": ("qwen2", "clip", 336, 576),
    "loramoe": ("qwen2", "clip", 336, 576),
    "tgdoc": ("qwen2", "clip", 336, 576),
}
ELSEWHERE = {
    "adaptformer",
    "adaptvision",
    "any2point",
    "audio_adapter_fusion",
    "concat",
    "conformer_adapter",
    "frames_pool",
    "graph_adapter",
    "graph_tokens",
    "iva",
    "mixture_of_adapters",
    "mova",
    "ted_adapter",
    "temporal_aligner",
    "temporal_conv",
    "text_memory",
    "texthawk",
    "two_senses",
    "vl_adapter",
    "whisper_pool",
    "window_resampler",
}
"""Recipes of other senses, of several encoders and of tiles; the tests of their connectors run them with stand-ins."""
BLOCKS = {"inner_adaptor": 32}
"""Recipe -> blocks of its LLM, where it names more than 8."""


def stand_in(name: str, tmp: Path) -> tuple[Recipe, MultimodalLM]:
    """The recipe with nothing changed but where its frozen parts lie, in float32; and its assembly."""
    family, kind, side, _ = RUNS[name]
    llm = tiny_llm_folder(tmp, family, max_position_embeddings=4096, num_hidden_layers=BLOCKS.get(name, 8))
    (tmp / "vision").mkdir()
    overrides = [
        f"llm.path={llm}",
        "llm.dtype=float32",
        f"encoders.image.model={vision_folder(tmp / 'vision', kind, side)}",
    ]
    if kind == "open_clip":
        overrides.append("encoders.image.pretrained=")
    recipe = load_recipe(folder() / f"{name}.yaml", overrides)
    return recipe, build(recipe, "cpu")


def test_every_full_size_recipe_is_here() -> None:
    assert sorted([*RUNS, *ELSEWHERE]) == sorted(path.stem for path in folder().glob("*.yaml"))


@pytest.mark.parametrize("name", RUNS)
def test_full_size_recipe_with_stand_ins(name: str, tmp_path: Path) -> None:
    recipe, model = stand_in(name, tmp_path)
    tokens = RUNS[name][3]
    assert model.inputs["image"].n_tokens() == tokens
    batch = batch_of(model, [Row(1, (5, "image", 9), 4), Row(2, (7,), 3)])
    assert batch.n_tokens == 5 + tokens + 9 + 7
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, batch)
        assert silent == []
