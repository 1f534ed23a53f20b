"""Granite Speech as a run: sounds of unlike length beside each other, its LoRA, and what cannot be taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers as t

import mmllm
from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.errors import MmllmError
from mmllm.processors.audio_front_ends import GraniteFrontEnd
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.sounds import signal, wav
from mmllm.testing.tiny.published import CASES, published_folder
from tests.support.published import packed, said

LORA = "Granite Speech, a LoRA for sounds"
pytest.importorskip("torchaudio")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("granite")
    published_folder(CASES[LORA].name, folder / "vlm", **CASES[LORA].changes)
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.mark.parametrize("samples", [1, 160, 256, 257, 319, 320, 321, 479, 480, 4799, 4800, 5120, 16000, 47999])
def test_tokens_are_counted_before_a_sound_is_read(samples: int) -> None:
    front = GraniteFrontEnd(t.GraniteSpeechFeatureExtractor())
    made = front.prepare(numpy.pad(signal(samples, 16000), (0, max(0, front.smallest - samples))))
    assert made.shape == (160, front.tokens(samples))
    assert front.tokens(samples) == max(1, (samples // 160 + 1) // 2)


@torch.no_grad()
def test_a_sound_is_heard_the_same_beside_others(place: Path) -> None:
    """In transformers' own model a sound that is padded to its neighbour's length is another one."""
    encoder = HfAudioEncoder(model=str(place / "vlm"), layers=[0, 1, "final"])
    sounds = [wav(signal(n, 16000), 16000) for n in (3000, 16000, 3000, 700)]
    items = [encoder.processor.read(one) for one in sounds]
    together = encoder(**encoder.processor.collate(items))
    for number, (item, grid) in enumerate(zip(items, together.item_grids(), strict=True)):
        alone = encoder(**encoder.processor.collate([item]))
        assert alone.grid == grid
        for layer, states in alone.layers.items():
            torch.testing.assert_close(together.layers[layer][number, : grid[0]], states[0], atol=1e-5, rtol=1e-5)
    theirs = t.GraniteSpeechForConditionalGeneration.from_pretrained(place / "vlm").model.encoder.eval()
    extractor = t.AutoProcessor.from_pretrained(place / "vlm").audio_processor
    padded = theirs(extractor([signal(3000, 16000), signal(16000, 16000)])["input_features"]).last_hidden_state
    expected = theirs(extractor(signal(3000, 16000))["input_features"]).last_hidden_state[0]
    torch.testing.assert_close(together.layers["final"][0, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    assert (padded[0, : len(expected)] - expected).abs().max() > 0.01


@torch.no_grad()
def test_its_lora_works_where_there_is_sound(place: Path) -> None:
    model = mmllm.load(place / "run").model
    lora = {name: p for name, p in model.connectors["lora"].named_parameters()}
    assert len(lora) == 8, "queries and values of two blocks"
    rows = [packed(model, [said("audio", "What?", "A bell.", *shown)]) for shown in ((0,), ())]
    before = [model.logits(row) for row in rows]
    for parameter in lora.values():
        parameter.zero_()
    after = [model.logits(row) for row in rows]
    assert torch.equal(before[1], after[1]) and (before[0] - after[0]).abs().max() > 0.01


def test_words_that_do_not_fit_are_refused(place: Path) -> None:
    with pytest.raises(MmllmError, match=r'fixed: ".*" hears what pads a sound; remove the word'):
        HfAudioEncoder(model=str(place / "vlm"), window=1.0, fixed=True)
    with pytest.raises(MmllmError, match=r"whole_windows: .* does not hear what pads a window"):
        HfAudioEncoder(model=str(place / "vlm"), whole_windows=True)


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        ("adapter_config.json", {"use_dora": True}, "its LoRA has use_dora: True, which the connector lora does not"),
        ("adapter_config.json", {"bias": "all"}, "its LoRA has bias: all"),
        (
            "config.json",
            {"encoder": {"input_dim": 128}},
            "hears 128 channels, and its extractor makes twice 80",
        ),
        ("adapter_model.safetensors", None, "has an adapter_config.json and no adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_imported(
    file: str, words: dict[str, Any] | None, sentence: str, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / file
    if words is None:
        path.unlink()
    else:
        found = json.loads(path.read_text())
        inner = {"encoder_config": found["encoder_config"] | words["encoder"]} if "encoder" in words else words
        path.write_text(json.dumps(found | inner))
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
