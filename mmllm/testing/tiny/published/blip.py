"""BLIP-2 and InstructBLIP with OPT and with Llama."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_lowercase
from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published

OPT: dict[str, Any] = {
    "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 384,
    "max_position_embeddings": 512, "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QFORMER: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40,
    "max_position_embeddings": 64,
}  # fmt: skip
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *(f"##{one}" for one in ascii_lowercase), "?"]
"""Words of the Q-Former's tokenizer: letters, at the start of a word and inside it."""


def _blip(kind: str) -> Callable[[int, dict[str, Any]], Any]:
    def made(token: int, changes: dict[str, Any]) -> Any:
        former = QFORMER if kind == "Blip2" else {**QFORMER, "vocab_size": len(BERT) + 1}
        words: dict[str, Any] = {"vision_config": dict(VIT), "text_config": t.OPTConfig(**OPT), "num_query_tokens": 5}
        words |= {"qformer_config": {**former, **changes.pop("qformer", {})}}
        return getattr(t, f"{kind}Config")(**{**words, "image_token_index": token, **changes})

    return made


def _pictures() -> Any:
    return t.BlipImageProcessor(size={"height": 28, "width": 28})


def _blip2_processor(tokenizer: Any, template: str, config: Any) -> Any:
    return t.Blip2Processor(_pictures(), tokenizer, num_query_tokens=config.num_query_tokens)


def _instructblip_processor(tokenizer: Any, template: str, config: Any) -> Any:
    own = t.BertTokenizer(vocab={word: number for number, word in enumerate(BERT)})
    return t.InstructBlipProcessor(_pictures(), tokenizer, own, num_query_tokens=config.num_query_tokens)


PUBLISHED = {
    "Blip2": Published(_blip("Blip2"), _blip2_processor),
    "InstructBlip": Published(_blip("InstructBlip"), _instructblip_processor),
}
CASES = {
    "BLIP-2": Case("Blip2"),
    "BLIP-2, Llama, a first token in front, no query biases": Case(
        "Blip2",
        {"text_config": t.LlamaConfig(**LLM), "vision_config": {**VIT, "qkv_bias": False}, "bos": True},
    ),
    "BLIP-2, cross-attention in every block": Case(
        "Blip2", {"qformer": {"cross_attention_frequency": 1, "hidden_act": "relu", "layer_norm_eps": 1e-6}}
    ),
    "InstructBLIP, Llama": Case("InstructBlip", {"text_config": t.LlamaConfig(**LLM)}),
}
