"""Converters on tiny random models of transformers, written in the originals' names: the same outputs must come out."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, WhisperConfig, WhisperForConditionalGeneration

from mmllm.errors import MmllmError
from mmllm.real.ctranslate2_file import read_model
from mmllm.real.dinov2 import RENAMED, dinov2_from
from mmllm.real.whisper import whisper_from

NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def randomised(model: torch.nn.Module) -> Any:
    """Every weight drawn, those that begin as 0 or 1 too."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)
    return model.eval()


def model_bin(variables: dict[str, np.ndarray[Any, Any]], aliases: dict[str, str], version: int = 6) -> bytes:
    """A CTranslate2 model file."""

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", version), name("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for key, array in variables.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [name(key), shape, struct.pack("<BI", NUMBERS[str(array.dtype)], array.nbytes), array.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [name(text) for pair in aliases.items() for text in pair]
    return b"".join(parts)


def ctranslate2_names(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray[Any, Any]]:
    """Whisper's weights under CTranslate2's names: query, key and value side by side, 0 for the keys' missing bias."""
    state = {key: value.detach() for key, value in model.state_dict().items()}
    found: dict[str, torch.Tensor] = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}

    def joint(target: str, source: str, names: str) -> None:
        weights = [state[f"{source}.{one}_proj.weight"] for one in names]
        biases = [state.get(f"{source}.{one}_proj.bias", torch.zeros(len(weights[0]))) for one in names]
        found[f"{target}/weight"], found[f"{target}/bias"] = torch.cat(weights), torch.cat(biases)

    def pair(target: str, source: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for new, old in zip(names, ("weight", "bias"), strict=True):
            found[f"{target}/{new}"] = state[f"{source}.{old}"]

    norm = ("gamma", "beta")
    for conv in ("conv1", "conv2"):
        pair(f"encoder/{conv}", f"model.encoder.{conv}")
    for side, blocks in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        pair(f"{side}/layer_norm", f"model.{side}.layer_norm", norm)
        for block in range(blocks):
            new, old = f"{side}/layer_{block}", f"model.{side}.layers.{block}"
            joint(f"{new}/self_attention/linear_0", f"{old}.self_attn", "qkv")
            pair(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
            pair(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm", norm)
            pair(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm", norm)
            pair(f"{new}/ffn/linear_0", f"{old}.fc1")
            pair(f"{new}/ffn/linear_1", f"{old}.fc2")
            if side == "decoder":
                joint(f"{new}/attention/linear_0", f"{old}.encoder_attn", "q")
                joint(f"{new}/attention/linear_1", f"{old}.encoder_attn", "kv")
                pair(f"{new}/attention/linear_2", f"{old}.encoder_attn.out_proj")
                pair(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm", norm)
    arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in found.items()}
    return {**arrays, "encoder/num_heads": np.array(model.config.encoder_attention_heads, dtype=np.int16)}


def test_whisper_through_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=70,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    original = randomised(WhisperForConditionalGeneration(config))
    (tmp_path / "model.bin").write_bytes(model_bin(ctranslate2_names(original), {}))
    weights = read_model(tmp_path / "model.bin")
    # a config of this many tokens would put Whisper's own special ids outside the table
    converted = whisper_from(weights, bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=3)
    mels, ids = torch.randn(2, 8, 40), torch.randint(0, 70, (2, 7))
    with torch.inference_mode():
        before, after = (one(input_features=mels, decoder_input_ids=ids) for one in (original, converted))
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.encoder_last_hidden_state, after.encoder_last_hidden_state)


def test_a_whisper_without_a_weight_is_not_made_up() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
    )
    weights = ctranslate2_names(WhisperForConditionalGeneration(config))
    del weights["encoder/layer_0/ffn/linear_1/bias"]
    with pytest.raises(RuntimeError, match=r"model\.encoder\.layers\.0\.fc2\.bias"):
        whisper_from(weights)


def test_types_and_aliases_of_a_ctranslate2_file(tmp_path: Path) -> None:
    half = np.array([[0.5, -2.0, 65504.0]], dtype=np.float16)
    (tmp_path / "model.bin").write_bytes(model_bin({"a": half, "n": np.array(-7, dtype=np.int16)}, {"b": "a"}))
    found = read_model(tmp_path / "model.bin")
    assert sorted(found) == ["a", "b", "n"]
    assert found["a"].dtype == np.float16 and found["a"].tolist() == found["b"].tolist() == half.tolist()
    assert found["n"].shape == () and int(found["n"]) == -7


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (model_bin({}, {}, version=5), "CTranslate2 model of layout 5; known: 6"),
        (model_bin({"a": np.ones(4, np.float32)}, {})[:-12], "the file ends too early"),
        (b"", "the file ends too early"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(MmllmError, match=sentence):
        read_model(tmp_path / "model.bin")


def test_dinov2_under_the_names_it_was_exported_with() -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    original = randomised(Dinov2Model(config))
    exported = {}
    for name, weight in original.state_dict().items():
        for old, new in RENAMED.items():
            name = name.replace(new, old)
        if name != "embeddings.mask_token":  # no export has it
            exported[f"w:{name}"] = weight.numpy()
    converted = dinov2_from({**exported, "last": np.zeros(1)})
    assert converted.config.image_size == 70
    pixels = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        assert torch.equal(original(pixels).last_hidden_state, converted(pixels).last_hidden_state)
