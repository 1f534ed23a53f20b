"""What a GGUF file's keys say about attention and rotary positions, put into the config and checked against it.

transformers (5.23) reads width, depth and heads and drops the rest without a word: rope scaling, windows, soft-caps,
Qwen3's head width. A model that lost one of them answers fluently and wrongly.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mmllm.errors import MmllmError
from mmllm.llms.gguf_file import GgufFile

WORDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
}
"""Key of the file -> word of the config that must have its value."""
SCALING = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
"""Key of the file -> word of ``rope_parameters``."""
LLAMA3_CONTEXTS = (8192, 4096, 2048, 16384, 32768)
"""Lengths before stretching that are tried for a table of factors; Llama 3.1 and 3.2 have the first."""


def correct_config(config: Any, file: GgufFile) -> None:
    """Put the file's keys into ``config``, which transformers made of it.

    Raises:
        MmllmError: a key has no place in this family's config, or a scaling of positions is of an unknown kind.
    """
    for key, word in WORDS.items():
        if key in file.keys and not isinstance(file.keys[key], list) and hasattr(config, word):
            setattr(config, word, type(file.keys[key])(file.keys[key]))
    # transformers leaves these out of llama's config, and with it the tensors out of the model
    if "blk.0.attn_q.bias" in file.shapes and hasattr(config, "attention_bias"):
        config.attention_bias = True
    if hasattr(config, "rope_parameters") and config.rope_parameters is not None:
        rope = _full(config.rope_parameters)
        rope.update(_rotation(config, file))
        if "rope.freq_base_swa" in file.keys and "sliding_attention" in config.rope_parameters:
            config.rope_parameters["sliding_attention"]["rope_theta"] = float(file.keys["rope.freq_base_swa"])
    elif str(file.keys.get("rope.scaling.type", "none")) != "none":
        raise MmllmError(f"{_at(file)} scales rotary positions, which its family here ({config.model_type}) cannot")


def check_config(config: Any, file: GgufFile) -> None:
    """Compare a config with the file's keys, after it was saved and read again.

    Raises:
        MmllmError: one of them differs, so the model would compute something else than the file says.
    """
    said = {word: file.keys[key] for key, word in WORDS.items() if key in file.keys and hasattr(config, word)}
    found = {word: getattr(config, word) for word in said}
    if hasattr(config, "rope_parameters") and config.rope_parameters is not None:
        rotation = _rotation(config, file)
        said |= rotation
        found |= {word: _full(config.rope_parameters).get(word) for word in rotation}
    for word, value in said.items():
        if not isinstance(value, list) and not _same(found[word], value):
            raise MmllmError(
                f"{_at(file)} says {word} {value}, but the model that transformers makes of it has {found[word]}; it "
                "would give other answers. Take the model's safetensors instead"
            )


def check_weights(count: int, file: GgufFile) -> None:
    """Compare the number of weights in the model with those of the file.

    Raises:
        MmllmError: transformers left tensors of the file out.
    """
    if count != file.weights:
        raise MmllmError(
            f"{_at(file)} holds {file.weights} weights, but the {file.architecture} model that transformers makes of "
            f"it takes {count}; it would lose some of them. Take the model's safetensors instead"
        )


def _rotation(config: Any, file: GgufFile) -> dict[str, Any]:
    """Words of ``rope_parameters`` that the file decides."""
    words: dict[str, Any] = {}
    if "rope.freq_base" in file.keys:
        words["rope_theta"] = float(file.keys["rope.freq_base"])
    if "rope.dimension_count" in file.keys:
        share = int(file.keys["rope.dimension_count"]) / _head_dim(config)
        if share != 1 or "partial_rotary_factor" in _full(config.rope_parameters):
            words["partial_rotary_factor"] = share
    kind = str(file.keys.get("rope.scaling.type", "none"))
    if file.rope_factors is not None and not bool((file.rope_factors == 1).all()):
        return words | _llama3(config, file, words.get("rope_theta", 10000.0))
    # older files write the linear factor alone
    if kind == "none" and "rope.scale_linear" in file.keys:
        return words | {"rope_type": "linear", "factor": float(file.keys["rope.scale_linear"])}
    if kind == "none":
        return words
    if kind not in ("linear", "yarn") or any(name.startswith("rope_factors") for name in file.shapes):
        raise MmllmError(
            f"{_at(file)} scales its rotary positions by {kind!r} with tables of its own, which is not read from GGUF "
            "here; take the model's safetensors"
        )
    scaling = {word: file.keys[key] for key, word in SCALING.items() if key in file.keys}
    if kind == "linear":  # the original length is yarn's
        scaling = {"factor": scaling.get("factor", 1.0)}
    elif not {"factor", "original_max_position_embeddings"} <= scaling.keys():
        raise MmllmError(f"{_at(file)} scales by yarn without a factor and original_context_length; convert it again")
    elif "rope.scaling.attn_factor" in file.keys and scaling["factor"] > 1:
        # llama.cpp (build 11549) multiplies what yarn scales cosines and sines by anyway
        scaling["attention_factor"] *= 0.1 * math.log(scaling["factor"]) + 1.0
    return words | {"rope_type": kind, **scaling}


def _llama3(config: Any, file: GgufFile, theta: float) -> dict[str, Any]:
    """Words of Llama 3's scaling whose table of factors is the file's.

    GGUF keeps only the table (Llama 3.1, Dubey et al. 2024, arXiv 2407.21783); it is computed again and compared.
    """
    assert file.rope_factors is not None
    factor = round(float(file.rope_factors.max()), 3)
    for context in LLAMA3_CONTEXTS:
        words = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": context,
        }  # fmt: skip
        ours = llama3_factors(theta, 2 * len(file.rope_factors), words)
        if torch.allclose(ours, file.rope_factors.flatten(), rtol=1e-3):
            return words
    raise MmllmError(
        f"{_at(file)} holds a table of rotary factors that is not Llama 3's, so its kind of scaling is unknown; take "
        "the model's safetensors"
    )


def llama3_factors(theta: float, dim: int, words: dict[str, Any]) -> torch.Tensor:
    """float[dim / 2]: what Llama 3's scaling divides each frequency by."""
    low, high, context = words["low_freq_factor"], words["high_freq_factor"], words["original_max_position_embeddings"]
    waves = 2 * math.pi * theta ** (torch.arange(0, dim, 2).double() / dim)
    share = ((context / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / words["factor"] + share)).float()


def _full(rope: dict[str, Any]) -> dict[str, Any]:
    """Words for full attention; Gemma 3 has others for its windows, which scaling leaves alone."""
    found = rope.get("full_attention", rope)
    assert isinstance(found, dict)
    return found


def _head_dim(config: Any) -> int:
    if hasattr(config, "head_dim") and config.head_dim:
        return int(config.head_dim)
    return int(config.hidden_size // config.num_attention_heads)


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(found, int | float):
        return math.isclose(found, value, rel_tol=1e-5)
    return bool(found == value)


def _at(file: GgufFile) -> str:
    return f"llm.path: {str(file.path)!r}"
