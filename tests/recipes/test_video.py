"""The recipes of clips with stand-ins, and their miniature ones read."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from mmllm.batches.collate import collate
from mmllm.batches.sample import load_media, plan
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import Message, Sample
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.talks import packed
from tests.support.two_steps import two_steps

RECIPES = {
    "temporal_conv": ("siglip", 384, 2 * 13 * 13, 2 * 13 * 13),
    "iva": ("clip", 336, 3, 2),
    "temporal_aligner": ("clip", 224, 3, 2),
}
"""Recipe -> (its encoder's kind, side of its pictures, tokens of a clip of three frames and of one of two)."""


@pytest.mark.parametrize("name", RECIPES)
def test_full_size_recipe_with_stand_ins(name: str, tmp_path: Path) -> None:
    """Nothing changed but its frozen parts and how many frames they see: every weight learns."""
    kind, side, longer, shorter = RECIPES[name]
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=4096, num_hidden_layers=8)
    (tmp_path / "vision").mkdir()
    image = f"encoders.video.image.model={vision_folder(tmp_path / 'vision', kind, side)}"
    fewer = "encoders.video.frames=4" if name == "temporal_conv" else "encoders.video.fps=5.0"
    recipe = load_recipe(folder() / f"{name}.yaml", [f"llm.path={llm}", "llm.dtype=float32", image, fewer])
    assembly = build(recipe, "cpu")
    clips = [tiny_encoders.clip((200, 30, 30), 3), tiny_encoders.clip((30, 30, 200), 2)]
    samples = [
        Sample(
            "clip", (Message("user", "<video> What is on the sign?"), Message("assistant", "red")), {"video": (one,)}
        )
        for one in clips
    ]
    batch = packed(assembly, samples)
    assert len(batch.media_positions["video"]) == longer + shorter
    for stage in recipe.stages.values():
        set_trainable(assembly, stage.train)
        assembly.train()
        extra, silent = two_steps(assembly, batch)
        assert silent == []
        assert bool(extra > 0) == (name == "temporal_aligner")


@pytest.mark.parametrize("name", RECIPES)
def test_miniature_recipe_is_one(name: str) -> None:
    recipe = load_recipe(folder() / "mini" / f"{name}.yaml")
    assert recipe.connectors["video"].type == name and recipe.encoders["video"].type == "frames"


def test_frames_pool_with_stand_ins(tmp_path: Path) -> None:
    """Two clips of different lengths in one row, their times in the text; what its stages train gets gradients."""
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=8192)
    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=384, patch_size=14
    )
    model = tmp_path / "siglip"
    transformers.SiglipVisionModel(config).save_pretrained(model)
    transformers.SiglipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(model)
    overrides = [f"llm.path={llm}", "llm.dtype=float32", f"encoders.video.image.model={model}"]
    recipe = load_recipe(folder() / "frames_pool.yaml", overrides)
    assembly = build(recipe, "cpu")
    readers, prompter = assembly.inputs, Prompter(assembly.llm.tokenizer, list(assembly.inputs))
    samples = []
    for number, count in enumerate((12, 1)):
        clip = tiny_encoders.clip((200, 30, 30), count)
        said = (Message("user", "<video>\nWhat moves?"), Message("assistant", "A bar."))
        sample = Sample(f"clip {number}", said, {"video": (clip,)})
        samples.append(load_media(plan(sample, prompter, readers, recipe.llm.context, train=True), readers))
    batch = collate(samples, readers)
    assert batch.media["video"]["video"]["counts"].tolist() == [3, 1]  # 2.2 s, one frame a second at most
    assert len(batch.media_positions["video"]) == 4 * 14 * 14
    text = assembly.llm.tokenizer.decode(batch.input_ids[batch.media_ids < 0])
    assert [word in text for word in ("0.0s", "1.2s", "2.2s")] == [True] * 3
    for stage in recipe.stages.values():
        set_trainable(assembly, stage.train)
        nll, *_ = assembly(batch)
        nll.backward()
        learned = {name: p for name, p in assembly.named_parameters() if p.requires_grad}
        assert [name for name, p in learned.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
