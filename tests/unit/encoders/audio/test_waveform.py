"""The waveform encoder: frames, their norm and their tokens are those of Gemma 4 unified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.gemma4_unified.configuration_gemma4_unified import (
    Gemma4UnifiedAudioConfig,
    Gemma4UnifiedTextConfig,
)
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedMultimodalEmbedder

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.encoders.audio.waveform import WaveformEncoder
from mmllm.errors import MediaError, MmllmError
from mmllm.inspection.views import view
from mmllm.processors.sound_files import read_sound
from mmllm.testing.tiny.encoders import wav
from tests.support.layouts import features_of


def sound(samples: int, seed: int = 0) -> bytes:
    return wav(np.random.default_rng(seed).normal(0, 0.1, samples), 16_000)


@torch.no_grad()
def test_tokens_are_those_of_gemma_4_unified() -> None:
    """Two sounds that end inside a frame, one of them shorter than a frame."""
    torch.manual_seed(0)
    embedder = Gemma4UnifiedMultimodalEmbedder(
        Gemma4UnifiedAudioConfig(), Gemma4UnifiedTextConfig(hidden_size=24, num_hidden_layers=1)
    )
    connector = MlpConnector(dim=640, llm_dim=24, depth=1, bias=False)
    connector.mlp[0].weight.copy_(embedder.embedding_projection.weight)
    sounds = [sound(16_000 + 7), sound(500, 1)]
    given = Gemma4UnifiedAudioFeatureExtractor()([read_sound(one, 16_000) for one in sounds], return_tensors="pt")
    expected = embedder(given["input_features"])
    features = features_of(WaveformEncoder(), *sounds)
    found = connector(features)
    assert torch.equal(features.mask, given["input_features_mask"]) and features.item_grids() == ((26,), (1,))
    for row, (real, ours) in enumerate(zip(features.mask, found, strict=True)):
        torch.testing.assert_close(ours[real], expected[row, real], rtol=1e-5, atol=1e-6)


def test_frames_are_the_samples_as_they_are_read_or_normalised() -> None:
    data = sound(100)
    samples = torch.from_numpy(read_sound(data, 16_000))
    frames = torch.nn.functional.pad(samples, (0, 20)).reshape(3, 40)
    plain, rms, layer = (
        features_of(WaveformEncoder(samples=40, normalise=word, eps=0.0), data).layers[0][0]
        for word in ("none", "rms", "layer")
    )
    assert torch.equal(plain, frames)
    torch.testing.assert_close(rms, frames / frames.square().mean(1, keepdim=True).sqrt())
    torch.testing.assert_close(
        layer, (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True, correction=0)
    )


def test_silence_is_finite_and_times_are_those_of_frames() -> None:
    encoder = WaveformEncoder(samples=160)
    assert features_of(encoder, wav(np.zeros(400), 16_000)).concatenated().isfinite().all()
    measured = encoder.processor.measure(sound(400))
    assert encoder.processor.seconds(measured) == pytest.approx([0, 0.01, 0.02]) and "frames" not in measured
    # at its own rate, whatever the file's is
    other = WaveformEncoder(samples=80, rate=8000).processor.measure(sound(400))
    assert int(other["samples"]) == 200 and encoder.processor.grid(measured) == (3,)


def test_inspect_shows_frames() -> None:
    processor = WaveformEncoder().processor
    shown = view("<audio> 1", processor, sound(1000), processor.read(sound(1000)))
    assert shown.facts == "0.06 s at 16,000 Hz in 2 frames of 640 samples; 2 tokens of the encoder"
    assert len(shown.pictures) == 1 and shown.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"samples": 0}, "samples: 0 of a frame at rate: 16000"),
        ({"normalise": "mean"}, 'normalise: "mean" is unknown; known: none, rms, layer'),
        ({"timeout": 0.0}, "timeout: 0 must be more than 0"),
    ],
)
def test_wrong_words_are_one_sentence(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        WaveformEncoder(**words)


def test_what_is_too_long_is_refused(tmp_path: Path) -> None:
    encoder = WaveformEncoder(max_seconds=0.5)
    for look in (encoder.processor.read, encoder.processor.measure):
        with pytest.raises(MediaError, match=r"lasts 0\.6 seconds; at most 0\.5 are read"):
            look(sound(9000))
