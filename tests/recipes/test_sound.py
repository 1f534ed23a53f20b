"""The full-size recipes of sound run with stand-ins: Whisper's windows and tokens, the same connectors, tiny widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.encoders.audio.hf_audio import wav
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.types import Message, Sample
from tests.support.parts import tiny_llm_folder
from tests.support.two_steps import two_steps

TOKENS = {"whisper_pool": (375, 19), "window_resampler": (89, 5)}
"""Recipe -> tokens of 30 seconds and of 1.5 seconds."""


def whisper(tmp: Path) -> Path:
    """A random Whisper of small width with the real windows: 30 seconds, 1500 positions."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=2, num_mel_bins=80, d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=0, decoder_attention_heads=2, decoder_ffn_dim=4, max_target_positions=1, pad_token_id=0,
        bos_token_id=0, eos_token_id=1, decoder_start_token_id=0, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp)
    WhisperFeatureExtractor().save_pretrained(tmp)
    return tmp


@pytest.mark.parametrize("name", TOKENS)
def test_full_size_recipe_with_stand_ins(name: str, tmp_path: Path) -> None:
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=4096, num_hidden_layers=4)
    (tmp_path / "audio").mkdir()
    overrides = [f"llm.path={llm}", "llm.dtype=float32", f"encoders.audio.model={whisper(tmp_path / 'audio')}"]
    recipe = load_recipe(folder() / f"{name}.yaml", overrides)
    assembly = build(recipe, "cpu")
    reader = assembly.readers()["audio"]
    long, short = TOKENS[name]
    assert reader.tokens(None) is None
    assert reader.tokens({"samples": torch.tensor(480_000)}) == long
    sound = wav(np.random.default_rng(0).normal(0, 0.1, 12_000))
    assert reader.tokens(reader.measure(sound)) == short
    readers, prompter = assembly.readers(), Prompter(assembly.llm.tokenizer, list(assembly.sources))
    answer = Message("assistant", "rain")
    samples = [
        Sample("heard", (Message("user", "<audio>\nWhat is heard?"), answer), {"audio": (sound,)}),
        Sample("text", (Message("user", "What falls?"), answer)),
    ]
    batch = collate([encode(one, prompter, readers, recipe.llm.context, train=True) for one in samples], readers)
    assert len(batch.places["audio"]) == short
    for stage in recipe.stages.values():
        set_trainable(assembly, stage.train)
        _, silent = two_steps(assembly, batch)
        assert silent == []
