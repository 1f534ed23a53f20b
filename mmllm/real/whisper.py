"""Whisper base out of a CTranslate2 file in two pieces: encoder states and greedy ids must be CTranslate2's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.real.ctranslate2_file import read_model
from mmllm.real.packages import run_original

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import WhisperForConditionalGeneration

TOLERANCE = 1e-3
"""Largest allowed difference of an encoder state (their largest values are some tens)."""
RATE = 16000
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
NEW_TOKENS = 24


def convert(files: Sequence[Path], tools: Path | None, out: Path) -> list[str]:
    """Write the folder and compare it with CTranslate2; what was compared. Raises MmllmError where they differ.

    Without ``tools`` nothing is compared but the names and shapes of all weights, and the returned line says so.
    """
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    model_file = _joined(files)
    front_end = WhisperFeatureExtractor(feature_size=80)
    whisper_from(read_model(model_file)).save_pretrained(out)
    front_end.save_pretrained(out)
    tokenizer = WhisperTokenizer.from_pretrained(model_file.parent)
    tokenizer.save_pretrained(out)
    if tools is None:
        return ["not compared with CTranslate2, which could not be installed; every weight found by name and shape"]
    model = WhisperForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    mels = front_end(_sounds(), sampling_rate=RATE, return_tensors="pt")["input_features"]
    prompt = torch.tensor(tokenizer.convert_tokens_to_ids(list(PROMPT)))
    original = run_original("whisper", model_file, tools, {"mels": mels.numpy(), "prompt": prompt.numpy()})
    with torch.inference_mode():
        states = model.model.encoder(mels).last_hidden_state
    largest = float((states - torch.from_numpy(original["last"])).abs().max())
    if not largest <= TOLERANCE:
        raise MmllmError(
            f"{out.name}: encoder states differ from CTranslate2's by {largest:.1e}; allowed: {TOLERANCE:.0e}."
        )
    ends = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for row, ids in enumerate(original["ids"].tolist()):
        said = _greedy(model, states[row : row + 1], prompt, ends)
        if said != [one for one in ids if one >= 0]:
            raise MmllmError(
                f"{out.name}: says {tokenizer.decode(said)!r} where CTranslate2 says {tokenizer.decode(ids)!r}."
            )
    return [
        f"{len(mels)} generated sounds: encoder states equal CTranslate2's (float32) to {largest:.1e} (allowed "
        f"{TOLERANCE:.0e}; largest value {float(states.abs().max()):.0f}), greedy ids of the decoder the same"
    ]


def whisper_from(weights: Mapping[str, np.ndarray[Any, Any]], **ids: int) -> WhisperForConditionalGeneration:
    """Model of CTranslate2's variables; every weight must be there, none is made up. Sizes follow from the shapes.

    ``ids``: special ids for WhisperConfig (pad_token_id, ...) where they are not those of the multilingual Whisper.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    state = _renamed(weights)
    tokens, width = state["model.decoder.embed_tokens.weight"].shape
    heads = int(weights["encoder/num_heads"])
    blocks = {side: _blocks(weights, side) for side in ("encoder", "decoder")}
    inner = state["model.encoder.layers.0.fc1.weight"].shape[0]
    config = WhisperConfig(
        vocab_size=tokens,
        d_model=width,
        encoder_layers=blocks["encoder"],
        decoder_layers=blocks["decoder"],
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        **ids,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(state)
    return model.eval()


def _blocks(weights: Mapping[str, Any], side: str) -> int:
    return 1 + max(
        int(name.split("/")[1].removeprefix("layer_"))
        for name in weights
        if name.startswith(f"{side}/layer_") and name.split("/")[1] != "layer_norm"
    )


def _renamed(weights: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """CTranslate2's names -> transformers'; joint query/key/value matrices come apart, keys have no bias in Whisper."""
    import torch

    found = {name: torch.from_numpy(array.astype("float32")) for name, array in weights.items() if array.ndim}
    state: dict[str, Tensor] = {}

    def copy(source: str, target: str) -> None:
        for old, new in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            if f"{source}/{old}" in found:
                state[f"{target}.{new}"] = found[f"{source}/{old}"]

    def split(source: str, target: str, names: str) -> None:
        parts = (found[f"{source}/{kind}"].chunk(len(names)) for kind in ("weight", "bias"))
        for name, weight, bias in zip(names, *parts, strict=True):
            state[f"{target}.{name}_proj.weight"] = weight
            if name != "k":
                state[f"{target}.{name}_proj.bias"] = bias

    for conv in ("conv1", "conv2"):
        copy(f"encoder/{conv}", f"model.encoder.{conv}")
    for side in ("encoder", "decoder"):
        copy(f"{side}/layer_norm", f"model.{side}.layer_norm")
        state[f"model.{side}.embed_positions.weight"] = found[f"{side}/position_encodings/encodings"]
        for block in range(_blocks(weights, side)):
            old, new = f"{side}/layer_{block}", f"model.{side}.layers.{block}"
            split(f"{old}/self_attention/linear_0", f"{new}.self_attn", "qkv")
            copy(f"{old}/self_attention/linear_1", f"{new}.self_attn.out_proj")
            copy(f"{old}/self_attention/layer_norm", f"{new}.self_attn_layer_norm")
            copy(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
            copy(f"{old}/ffn/linear_0", f"{new}.fc1")
            copy(f"{old}/ffn/linear_1", f"{new}.fc2")
            if side == "decoder":
                split(f"{old}/attention/linear_0", f"{new}.encoder_attn", "q")
                split(f"{old}/attention/linear_1", f"{new}.encoder_attn", "kv")
                copy(f"{old}/attention/linear_2", f"{new}.encoder_attn.out_proj")
                copy(f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = found["decoder/embeddings/weight"]
    return state


def _joined(files: Sequence[Path]) -> Path:
    """Put the pieces of ``model.bin`` after each other, beside the files that CTranslate2 wants there."""
    out = files[0].with_name("model.bin")
    with out.open("wb") as whole:
        for piece in sorted(file for file in files if file.name.startswith("model.bin.part")):
            with piece.open("rb") as source:
                shutil.copyfileobj(source, whole)
    return out


def _sounds() -> list[np.ndarray[Any, Any]]:
    """Three generated sounds, float32[samples] at RATE: a gliding voice-like tone, clicks in noise, near silence."""
    import numpy as np

    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 1.5 * time)) / RATE
    voice = sum(np.sin(n * pitch) / n for n in range(1, 20)) * np.abs(np.sin(2 * np.pi * 2 * time))
    clicks = rng.normal(size=time.size) * (np.sin(2 * np.pi * 3 * time) > 0.95)
    sounds = (0.1 * voice, 0.3 * clicks, 1e-4 * rng.normal(size=time.size))
    return [sound.astype("float32") for sound in sounds]


def _greedy(model: Any, states: Tensor, prompt: Tensor, ends: int) -> list[int]:
    """Ids after the prompt for one sound's states float[1, T, D], at most NEW_TOKENS, without the end."""
    import torch

    ids = prompt[None]
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            best = model(encoder_outputs=(states,), decoder_input_ids=ids).logits[:, -1:].argmax(-1)
            if int(best) == ends:
                break
            ids = torch.cat([ids, best], 1)
    return [int(one) for one in ids[0, len(prompt) :]]
