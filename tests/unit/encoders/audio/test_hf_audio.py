"""hf_audio against transformers' own forward: Whisper, AST, wav2vec 2.0 and HuBERT; windows, masks, grids, times."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.errors import MediaError, MmllmError
from mmllm.hooks import EncoderContext
from mmllm.processors.sound_files import read_sound
from mmllm.testing.tiny.encoders import wav
from tests.support.layouts import features_of, layout_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
WAVE = {
    "conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
KINDS = ("whisper", "ast", "wav2vec2", "wav2vec2 group", "hubert", "hubert group")
WAVES = KINDS[2:]


def made(kind: str) -> tuple[Any, Any]:
    """A random model of a kind and its feature extractor, always the same."""
    torch.manual_seed(0)
    if kind == "whisper":
        config = hf.WhisperConfig(
            vocab_size=2, num_mel_bins=16, d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=4, max_source_positions=50,
            max_target_positions=4, pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        return hf.WhisperForConditionalGeneration(config), hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    if kind == "ast":
        config = hf.ASTConfig(**SMALL, max_length=100, num_mel_bins=36)
        return hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor(num_mel_bins=36, max_length=100)
    options = {} if "group" in kind else LAYER
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask="group" not in kind)
    if "hubert" in kind:
        return hf.HubertForCTC(hf.HubertConfig(**SMALL, **WAVE, **options, vocab_size=4)), extractor
    return hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**SMALL, **WAVE, **options, vocab_size=4)), extractor


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name in KINDS:
        model, extractor = made(name)
        found[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
        model.save_pretrained(found[name])
        extractor.save_pretrained(found[name])
    return found


def sound(seconds: float, seed: int = 0) -> bytes:
    return wav(np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)), 16_000)


@torch.no_grad()
def own(kind: str, samples: np.ndarray) -> torch.Tensor:
    """Last block's output of transformers' own forward over one window, before any final norm: float[1, T, 16]."""
    model, extractor = made(kind)
    model.eval()
    given = extractor(samples, sampling_rate=16_000, return_tensors="pt")
    if kind == "whisper":
        encoder = model.model.encoder
        kept: list[torch.Tensor] = []
        encoder.layers[-1].register_forward_hook(lambda _, __, output: kept.append(output))
        last = encoder(given["input_features"]).last_hidden_state
        assert torch.allclose(encoder.layer_norm(kept[0]), last)
        return kept[0]
    out = model.base_model(given["input_values"], output_hidden_states=True)
    return out.hidden_states[-1]


def test_one_window_is_what_transformers_gives(kind: str, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[kind]), frequencies="keep")
    data = sound(0.7)
    found = features_of(encoder, data).layers[-1]
    expected = own(kind, read_sound(data, 16_000))
    if kind == "ast":  # two class tokens, then frequency x time
        expected = expected[:, 2:].unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)
    assert found.shape[1] <= expected.shape[1] and (kind not in WAVES or found.shape == expected.shape)
    torch.testing.assert_close(found, expected[:, : found.shape[1]], rtol=1e-5, atol=1e-5)


def test_neighbours_and_their_padding_change_nothing(kind: str, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[kind]), layers=[0, 2, -1])
    short, long = sound(0.31), sound(2.45, 1)
    alone, together = features_of(encoder, short), features_of(encoder, long, short)
    (_, grid), n = together.item_grids(), alone.concatenated().shape[1]
    assert grid == alone.grid and int(together.mask[1].sum()) == n < together.mask.shape[1]
    torch.testing.assert_close(together.concatenated()[1, :n], alone.concatenated()[0], rtol=1e-5, atol=1e-5)
    assert (together.concatenated()[1, n:] == 0).all()


@pytest.mark.parametrize("name", WAVES)
def test_masks_are_not_idle(name: str, folders: dict[str, Path]) -> None:
    """The same padding without a mask does change what is heard, so the test above can fail."""
    model, extractor = made(name)
    samples = read_sound(sound(0.31), 16_000)
    values = extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_values"]
    padded = torch.nn.functional.pad(values, (0, 20_000))
    with torch.no_grad():
        plain = model.eval().base_model(values).last_hidden_state
        heard = model.base_model(padded).last_hidden_state[:, : plain.shape[1]]
    assert (heard - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "window"), [("whisper", None), ("ast", None), ("wav2vec2", 1.0), ("hubert group", 1.0)]
)
def test_long_sound_is_windows_after_each_other(name: str, window: float | None, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[name]), window=window)
    size = encoder.processor.window
    assert size is not None
    data = sound(2.3)
    samples = read_sound(data, 16_000)
    parts = [wav(samples[start : start + size], 16_000) for start in range(0, len(samples), size)]
    assert len(parts) == 3
    alone = [features_of(encoder, part).layers[-1][0] for part in parts]
    whole = features_of(encoder, data)
    torch.testing.assert_close(whole.layers[-1][0], torch.cat(alone), rtol=1e-3, atol=1e-3)
    read = encoder.processor.read(data)
    assert layout_of(encoder, encoder.processor.collate([read])).rows == (3,)
    times = encoder.processor.seconds(read)
    assert len(times) == whole.grid[0] and list(times) == sorted(times)
    assert times[len(alone[0])] == size / 16_000 and times[-1] < 2.3


def test_a_shorter_window_of_whisper_is_its_first_positions(tmp_path: Path) -> None:
    """Equal to the same weights in a Whisper that was made with so many positions."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 2, "num_mel_bins": 16, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 4,
        "max_target_positions": 4, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }  # fmt: skip
    long = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**sizes, max_source_positions=150))
    long.save_pretrained(tmp_path / "long")
    hf.WhisperFeatureExtractor(feature_size=16, chunk_length=3).save_pretrained(tmp_path / "long")
    short = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**sizes, max_source_positions=50))
    state = long.state_dict()
    table = "model.encoder.embed_positions.weight"
    short.load_state_dict({**state, table: state[table][:50]})
    short.save_pretrained(tmp_path / "short")
    hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(tmp_path / "short")
    cut = HfAudioEncoder(model=str(tmp_path / "long"), window=1)
    made_so = HfAudioEncoder(model=str(tmp_path / "short"))
    data = sound(1.7)
    assert torch.equal(features_of(cut, data).layers[-1], features_of(made_so, data).layers[-1])
    again = pickle.loads(pickle.dumps(cut.processor))
    assert torch.equal(again.read(data)["windows"], made_so.processor.read(data)["windows"])


def test_tokens_times_and_grid_of_whisper(folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders["whisper"]))
    for samples, tokens in ((1, 1), (320, 1), (321, 2), (16_000, 50), (16_001, 51), (32_640, 102)):
        assert encoder.processor.grid({"samples": torch.tensor(samples)}) == (tokens,)
    assert encoder.processor.seconds({"samples": torch.tensor(960)}) == pytest.approx([0, 0.02, 0.04])
    assert encoder.processor.fixed_grid() is None


def test_ast_averages_or_keeps_its_frequencies(folders: dict[str, Path]) -> None:
    mean, keep = (HfAudioEncoder(model=str(folders["ast"]), frequencies=word) for word in ("mean", "keep"))
    one, other = features_of(mean, sound(0.7)), features_of(keep, sound(0.7))
    assert other.grid == (*one.grid, 3)
    bands = other.layers[-1].unflatten(1, other.grid)
    torch.testing.assert_close(bands.mean(2), one.layers[-1])
    layout = layout_of(keep, keep.processor.collate([keep.processor.read(sound(0.7))]))
    assert layout.prefix == 2 and layout.grid == (3, 9) and layout.mask is not None
    assert layout.mask.shape == (1, 27)


@pytest.mark.parametrize(("name", "window"), [("whisper", None), ("wav2vec2", 1.0)])
def test_fixed_gives_every_item_one_grid(name: str, window: float | None, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[name]), fixed=True, window=window)
    free = HfAudioEncoder(model=str(folders[name]), window=window)
    found = features_of(encoder, sound(0.2), sound(0.9, 1))
    processor = encoder.processor
    assert found.grids is None and found.grid == processor.fixed_grid() == processor.grid(processor.blank())
    short = features_of(free, sound(0.2)).layers[-1]
    torch.testing.assert_close(found.layers[-1][:1, : short.shape[1]], short, rtol=1e-5, atol=1e-5)
    for look in (processor.read, processor.measure):
        with pytest.raises(MediaError, match=r"1\.10 seconds is longer than the one window of 1 seconds"):
            look(sound(1.1))


def test_one_sample_and_silence(kind: str, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[kind]))
    found = features_of(encoder, wav(np.array([0.3]), 16_000), wav(np.zeros(9000), 16_000))
    assert found.item_grids()[0] == (1,) and found.concatenated().isfinite().all()


def test_wrong_words_are_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": str(tmp_path)}, "cannot be loaded as an audio model"),
        ({"model": str(folders["ast"]), "window": 5.0}, "hears windows of 1.015 seconds and no others"),
        ({"model": str(folders["whisper"]), "window": 5.0}, "whole seconds from 1 up to 1"),
        ({"model": str(folders["whisper"]), "window": 0.5}, "0.5 seconds are no window of this model"),
        ({"model": str(folders["ast"]), "frequencies": "sum"}, "known: mean, keep"),
        ({"model": str(folders["ast"]), "timeout": 0.0}, "timeout: 0 must be more than 0"),
        ({"model": str(folders["hubert"]), "fixed": True}, "say how long: window"),
        ({"model": str(folders["hubert"]), "window": 1e-4}, "shorter than one token"),
        ({"model": str(folders["hubert"]), "layers": [9]}, "layers: 9 does not exist"),
    ]
    for words, sentence in wrong:
        with pytest.raises(MmllmError, match=sentence) as error:
            HfAudioEncoder(**words)
        assert "\n" not in str(error.value)


def test_another_kind_of_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    hf.ViTModel(hf.ViTConfig(**SMALL, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    made("hubert")[1].save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match="ViTModel; hf_audio knows Whisper"):
        HfAudioEncoder(model=str(tmp_path))


@pytest.mark.parametrize("name", ["whisper", "wav2vec2"])
def test_missing_weights_are_named(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in weights if "layers.1" in key and "encoder" in key)
    save_file({k: v for k, v in weights.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(MmllmError, match=r"do not fill the model: .*layers\.1"):
        HfAudioEncoder(model=str(tmp_path))


def test_an_untrained_mask_embedding_is_no_reason_to_refuse(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["wav2vec2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "masked_spec" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    full, without = (HfAudioEncoder(model=str(folder)) for folder in (folders["wav2vec2"], tmp_path))
    assert not any("masked_spec" in name for name in without.state_dict())
    assert torch.equal(features_of(full, sound(0.3)).layers[-1], features_of(without, sound(0.3)).layers[-1])


def test_connectors_can_work_inside_it(kind: str, folders: dict[str, Path]) -> None:
    encoder = HfAudioEncoder(model=str(folders[kind]), layers=[0, 3])
    before = features_of(encoder, sound(0.4)).concatenated()
    seen: list[tuple[EncoderContext, torch.Size]] = []

    def louder(ctx: EncoderContext, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append((ctx, y.shape))
        return 2 * y

    handle = encoder.hook_points().after_mlp(1, louder)
    changed = features_of(encoder, sound(0.4)).concatenated()
    handle.remove()
    ((ctx, shape),) = seen
    assert ctx.layout is not None and ctx.layout.mask is not None
    assert shape == torch.Size((1, ctx.layout.prefix + ctx.layout.mask.shape[1], 16))
    assert torch.equal(changed[..., :16], before[..., :16]) and not torch.allclose(changed, before)
    assert torch.equal(features_of(encoder, sound(0.4)).concatenated(), before)
