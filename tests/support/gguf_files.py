"""Writes tiny transformers models as GGUF files with the ``gguf`` package, as llama.cpp's converter would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", 
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
NORMAL, CONTROL = 1, 3


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    kind: str = "F32",
    *,
    rule: str = "gpt-2",
    keys: dict[str, Any] | None = None,
    tensors: dict[str, numpy.ndarray] | None = None,
) -> Path:
    """A GGUF file of ``model`` (llama, qwen2, qwen3), matrices stored as ``kind`` (F32, F16, Q8_0).

    ``rule``: ``tokenizer.ggml.pre``; ``keys``: more keys, without the architecture; ``tensors``: more tensors.
    """
    architecture = model.config.model_type
    writer = GGUFWriter(path, architecture)
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer, model.config.vocab_size, rule)
    for key, value in (keys or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{architecture}.{key}", value)
    for name, weight in model.named_parameters():
        data = (
            _permuted(name, weight.detach(), model.config).numpy()
            if architecture == "llama"
            else weight.detach().numpy()
        )
        _write_tensor(writer, _name(name), data, kind)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = config.head_dim if hasattr(config, "head_dim") else config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, size: int, rule: str) -> None:
    """Byte-level BPE; rows of the embeddings without a token are padded as the converter does."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    added = set(tokenizer.added_tokens_decoder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([known.get(index, f"[PAD{index}]") for index in range(size)])
    writer.add_token_types([CONTROL if i in added else NORMAL if i in known else 5 for i in range(size)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _write_tensor(writer: GGUFWriter, name: str, data: numpy.ndarray, kind: str) -> None:
    """Norms and biases stay float32, as in every published file."""
    quantised = GGMLQuantizationType[kind if data.ndim == 2 else "F32"]
    writer.add_tensor(name, quants.quantize(data, quantised), raw_dtype=quantised)


def _name(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    if layer.startswith("model.layers."):
        _, _, number, part = layer.split(".", 3)
        return f"blk.{number}.{NAMES[part]}.{kind}"
    return f"{NAMES[layer]}.{kind}"


def _permuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Llama's queries and keys in llama.cpp's order: pairs of a rotation beside each other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape).contiguous()
