"""Towers of published models that hear: masks, the mean before the last norm, whole windows, how many tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from torch import Tensor

from mmllm import registry
from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.encoders.outlines.outline import outline
from mmllm.errors import MmllmError
from mmllm.model.project import project
from mmllm.processors.sound_files import read_sound
from mmllm.testing import check_encoder
from mmllm.testing.tiny.encoders import wav
from mmllm.testing.tiny.published import published_folder
from tests.support.layouts import features_of, layout_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("towers")
    return {name: str(published_folder(name, place / name)) for name in ("Qwen2Audio", "AudioFlamingo3", "Voxtral")}


def sound(seconds: float, seed: int = 0) -> bytes:
    return wav(np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000)), 16_000)


def own(name: str, folder: str, samples: np.ndarray) -> tuple[Tensor, int]:
    """(last state of transformers' own tower over one window, real tokens of its blocks)."""
    tower = getattr(t, f"{name}ForConditionalGeneration").from_pretrained(folder).eval().model.audio_tower
    made = t.WhisperFeatureExtractor.from_pretrained(folder)(
        samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
    )
    inner = int(tower._get_feat_extract_output_lengths(made.attention_mask.sum())[0])
    if name == "AudioFlamingo3":
        return tower(made.input_features, input_features_mask=made.attention_mask).last_hidden_state[0], inner
    real = torch.arange(50) < inner
    return tower(made.input_features, attention_mask=real[None, None, None]).last_hidden_state[0], inner


@pytest.mark.parametrize("name", ["Qwen2Audio", "AudioFlamingo3"])
@torch.no_grad()
def test_final_is_normed_behind_the_mean_of_two(name: str, folders: dict[str, str]) -> None:
    encoder = HfAudioEncoder(model=folders[name], layers=["final"])
    data = sound(0.71)
    expected, inner = own(name, folders[name], read_sound(data, 16_000))
    found = features_of(encoder, data)
    assert found.grid == (inner // 2,) == (18,) and expected.shape == (25, 16)
    torch.testing.assert_close(found.layers["final"][0], expected[:18], rtol=1e-5, atol=1e-5)
    # the other way round is another thing
    last = HfAudioEncoder(model=folders[name], layers=[-1])
    normed = encoder.audio.net.layer_norm(features_of(last, data).layers[-1][0])
    assert len(normed) == inner == 36
    assert (normed.unflatten(0, (18, 2)).mean(1) - expected[:18]).abs().max() > 0.05


@pytest.mark.parametrize(("seconds", "tokens"), [(0.02, 0), (0.04, 1), (0.05, 1), (1.0, 25), (1.01, 25), (1.04, 26)])
def test_tokens_and_times_of_a_mean(seconds: float, tokens: int, folders: dict[str, str]) -> None:
    """As ``(((frames - 1) // 2 + 1) - 2) // 2 + 1`` of each window, none of a sound shorter than a token."""
    processor = HfAudioEncoder(model=folders["Qwen2Audio"], layers=["final"]).processor
    info = processor.measure(sound(seconds))
    assert processor.grid(info) == (tokens,)
    times = processor.seconds(info)
    assert list(times) == pytest.approx([0.04 * n for n in range(tokens)])
    assert processor.grid(processor.blank()) == (1,)


@pytest.mark.parametrize(
    "words",
    [
        {"type": "mlp"}, {"type": "pool", "stride": [2]}, {"type": "window_resampler"},
        {"type": "pixel_shuffle", "axes": 1},
    ],
)  # fmt: skip
def test_a_sound_without_tokens_stays_one(words: dict[str, Any], folders: dict[str, str]) -> None:
    """Connectors that give one token for so many of the encoder's give none, beside sounds that have some."""
    encoder = HfAudioEncoder(model=folders["Qwen2Audio"], layers=["final"])
    arguments = {word: value for word, value in words.items() if word != "type"}
    connector = registry.load("connectors", words["type"])(dim=16, llm_dim=8, **arguments)
    features = features_of(encoder, sound(0.02), sound(0.17))
    assert features.item_grids() == ((0,), (4,))
    ctx: Any = None
    tokens, counts = project(connector, [features], ctx)
    assert counts == [0, connector.n_tokens((4,))] and tokens.shape == (counts[1], 8)
    tokens.sum().backward()
    assert all(p.grad is not None for p in connector.parameters())


def test_the_contract_holds_with_final_alone(folders: dict[str, str]) -> None:
    check_encoder(lambda: HfAudioEncoder(model=folders["AudioFlamingo3"], layers=["final"]))


def test_blocks_are_laid_out_before_the_mean(folders: dict[str, str]) -> None:
    encoder = HfAudioEncoder(model=folders["Qwen2Audio"], layers=["final"])
    layout = layout_of(encoder, encoder.processor.collate([encoder.processor.read(sound(0.1))]))
    assert layout.grid == (50,) and layout.mask is not None and layout.mask.sum() == 5


def test_final_stands_alone_where_it_has_fewer_tokens(folders: dict[str, str]) -> None:
    with pytest.raises(MmllmError, match=r"layers: \[-1, 'final'\] cannot stand side by side: final is"):
        HfAudioEncoder(model=folders["Qwen2Audio"], layers=[-1, "final"])
    HfAudioEncoder(model=folders["Voxtral"], layers=[-1, "final"])


@torch.no_grad()
def test_whole_windows_are_one_sound_whose_silence_is_heard(folders: dict[str, str]) -> None:
    """The spectrogram of all of a sound is not that of its windows; the last one gives all its tokens."""
    whole, cut = (HfAudioEncoder(model=folders["Voxtral"], whole_windows=word) for word in (True, False))
    data = sound(30.5)
    item, parts = whole.processor.read(data), cut.processor.read(data)
    assert item["windows"].shape == parts["windows"].shape == (2, 16, 3000)
    assert (item["windows"] - parts["windows"]).abs().max() > 0.01
    assert whole.processor.grid(item) == (3000,) and cut.processor.grid(parts) == (1525,)
    found = features_of(whole, data).layers[-1][0]
    assert found.shape == (3000, 16) and found[2000:].std() > 0.1
    assert whole.processor.grid(whole.processor.blank()) == (1500,)


@torch.no_grad()
def test_voxtrals_positions_stay_in_float32(folders: dict[str, str]) -> None:
    """In bfloat16 it is transformers' own to the bit, which keeps them so; a table of 16 bits would not be."""
    encoder = HfAudioEncoder(model=folders["Voxtral"], layers=["final"], whole_windows=True).to(torch.bfloat16)
    theirs = t.VoxtralForConditionalGeneration.from_pretrained(folders["Voxtral"], dtype=torch.bfloat16).eval()
    table = theirs.model.audio_tower.embed_positions.weight
    assert table.dtype == encoder.audio.net.embed_positions.weight.dtype == torch.float32
    assert {p.dtype for p in encoder.parameters()} == {torch.float32, torch.bfloat16}
    windows = encoder.processor.read(sound(0.3))["windows"]
    expected = theirs.model.audio_tower(windows).last_hidden_state[0]
    assert torch.equal(features_of(encoder, sound(0.3)).layers["final"][0], expected)
    theirs.model.audio_tower.embed_positions.bfloat16()
    assert not torch.equal(theirs.model.audio_tower(windows).last_hidden_state[0], expected)


def test_whole_windows_need_a_model_that_hears_silence(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r'whole_windows: ".*" does not hear what pads a window; remove the word'):
        HfAudioEncoder(model=folders["Qwen2Audio"], whole_windows=True)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    t.ASTModel(t.ASTConfig(**sizes, max_length=100, num_mel_bins=36)).save_pretrained(tmp_path)
    t.ASTFeatureExtractor(num_mel_bins=36, max_length=100).save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match="whole_windows: this model hears no log-mel windows; remove the word"):
        HfAudioEncoder(model=str(tmp_path), whole_windows=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("Qwen2Audio", {"layers": ["final"]}), ("Qwen2Audio", {"layers": [-1]}), ("Voxtral", {"whole_windows": True})],
)
def test_outlines_read_as_the_encoder(name: str, words: dict[str, Any], folders: dict[str, str]) -> None:
    encoder, found = (
        HfAudioEncoder(model=folders[name], **words),
        outline("hf_audio", {"model": folders[name], **words}),
    )
    assert found is not None and found.dim == encoder.dim
    item, expected = found.processor.read(sound(0.3)), encoder.processor.read(sound(0.3))
    assert torch.equal(item["windows"], expected["windows"])
    assert found.processor.grid(item) == encoder.processor.grid(expected)
