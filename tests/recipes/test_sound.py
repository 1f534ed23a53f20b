"""The full-size recipes of sound run with stand-ins: Whisper's windows and tokens, the same connectors, tiny widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.encoders import wav
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import audio_folder
from tests.support.talks import packed, talk
from tests.support.two_steps import two_steps

TOKENS = {"whisper_pool": (375, 19), "window_resampler": (89, 5)}
"""Recipe -> tokens of 30 seconds and of 1.5 seconds."""


@pytest.mark.parametrize("name", TOKENS)
def test_full_size_recipe_with_stand_ins(name: str, tmp_path: Path) -> None:
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=4096, num_hidden_layers=4)
    (tmp_path / "audio").mkdir()
    overrides = [
        f"llm.path={llm}",
        "llm.dtype=float32",
        f"encoders.audio.model={audio_folder(tmp_path / 'audio', 'whisper')}",
    ]
    recipe = load_recipe(folder() / f"{name}.yaml", overrides)
    model = build(recipe, "cpu")
    reader = model.inputs["audio"]
    long, short = TOKENS[name]
    assert reader.n_tokens() is None
    assert [span.length for span in reader.layout({"audio": {"samples": torch.tensor(480_000)}})] == [long]
    sound = wav(np.random.default_rng(0).normal(0, 0.1, 12_000))
    assert [span.length for span in reader.layout(reader.measure(sound))] == [short]
    samples = [talk("heard", "<audio>\nWhat is heard?", "rain", audio=(sound,)), talk("text", "What falls?", "rain")]
    batch = packed(model, samples)
    assert len(batch.media_positions["audio"]) == short
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, batch)
        assert silent == []
