"""The cross-attention blocks of a published model's LLM, and the layer in front of them, as one connector here.

``projector.py`` has them in its table of what lies between towers and LLMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmllm.vlms.tensors import read_tensors

_BLOCK = {
    "cross_attn.q_proj.": "query.",
    "cross_attn.k_proj.": "key.",
    "cross_attn.v_proj.": "value.",
    "cross_attn.o_proj.": "output.",
    "cross_attn.q_norm.": "query_norm.",
    "cross_attn.k_norm.": "key_norm.",
    "cross_attn_attn_gate": "attention_gate",
    "cross_attn_mlp_gate": "mlp_gate",
    "input_layernorm.": "attention_norm.",
    "post_attention_layernorm.": "mlp_norm.",
    "mlp.gate_proj.": "gate.",
    "mlp.up_proj.": "up.",
    "mlp.down_proj.": "down.",
}
"""Beginning of a tensor's name in a block of transformers' -> in one of the connector's."""


def words_of(config: Any) -> dict[str, Any]:
    """Type and arguments of the connector that computes what stands between tower and LLM of Llama 3.2 Vision."""
    text = config.text_config
    cross = set(text.cross_attention_layers)
    own = [index for index in range(text.num_hidden_layers) if index not in cross]
    return {
        "type": "cross_attention_layers",
        # the LLM's own blocks are those between them, and numbered without them
        "before": [sum(one < index for one in own) for index in sorted(cross)],
        "heads": text.num_attention_heads,
        "kv_heads": text.num_key_value_heads,
        "head_dim": text.hidden_size // text.num_attention_heads,
        "mlp_width": text.intermediate_size,
        "activation": text.hidden_act,
        "eps": text.rms_norm_eps,
        "reads_ahead": True,
    }


def tensors_of(path: str, config: Any) -> dict[str, Tensor]:
    """Its tensors by the connector's names, read from a folder or hub id."""
    found = _read(path, "multi_modal_projector.", "projector.")
    for number, index in enumerate(sorted(config.text_config.cross_attention_layers)):
        for name, tensor in _read(path, f"layers.{index}.", f"layers.{number}.").items():
            found[name] = tensor
    return found


def published(config: Any, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`tensors_of`: by the names that the whole model has for them."""
    blocks = sorted(config.text_config.cross_attention_layers)
    found = {}
    for name, tensor in learned.items():
        if name.startswith("projector."):
            found[f"model.multi_modal_projector.{name.removeprefix('projector.')}"] = tensor
            continue
        _, number, inner = name.split(".", 2)
        begins = next(((old, new) for old, new in _BLOCK.items() if inner.startswith(new)), ("", ""))
        there = begins[0] + inner.removeprefix(begins[1])
        found[f"model.language_model.layers.{blocks[int(number)]}.{there}"] = tensor
    return found


def _read(path: str, module: str, name: str) -> dict[str, Tensor]:
    """Tensors of a module whose name in the connector begins so; older files have the text model's own names."""
    before = ("model.", "") if module.startswith("multi") else ("model.language_model.", "language_model.model.")
    found = read_tensors(path, [f"{front}{module}" for front in before])
    return {name + _renamed(old): tensor for old, tensor in found.items()}


def _renamed(name: str) -> str:
    begins = next((old for old in _BLOCK if name.startswith(old)), None)
    return name if begins is None else _BLOCK[begins] + name[len(begins) :]
