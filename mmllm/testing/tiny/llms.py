"""Tiny language models of many families, random but always the same: 4 blocks of width 32, a byte-level tokenizer.

Everything is offline and takes milliseconds; folders are in ``save_pretrained`` format, so the ordinary loaders read
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmllm.llms.causal_lm import CausalLM
from mmllm.testing.tiny.copies import Prototype

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = [
    "What is on the sign? A red square is left of the blue circle.",
    "How many shapes are there? There are 3 shapes, one green triangle and two digits: 4 and 7.",
    "Total 12.50 EUR. The receipt says thank you for your visit, and the cat sat on the mat.",
] * 4
VOCAB = 384

_ROPE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_PLAIN = {key: value for key, value in _ROPE.items() if key != "head_dim"}
_DEPTH = {"num_hidden_layers": 4, "max_position_embeddings": 256}
_GEMMA = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6, "query_pre_attn_scalar": 24}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_ROPE, **_DEPTH}),
    "qwen2": ("Qwen2Config", {**_PLAIN, **_DEPTH}),
    "qwen3": ("Qwen3Config", {**_ROPE, **_DEPTH, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**_ROPE, **_DEPTH, "sliding_window": 6}),
    "phi3": ("Phi3Config", {**_PLAIN, **_DEPTH, "sliding_window": 6}),
    "gemma2": (
        "Gemma2Config",
        {**_ROPE, **_DEPTH, **_GEMMA, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("Gemma3TextConfig", {**_ROPE, **_DEPTH, **_GEMMA}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.3}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 24,
            "dropout": 0.3,
            **_DEPTH,
        },
    ),
    "olmo2": ("Olmo2Config", {**_PLAIN, **_DEPTH}),
    "smollm3": ("SmolLM3Config", {**_PLAIN, **_DEPTH, "no_rope_layer_interval": 2}),
}
"""Family -> (transformers config class, arguments); windows, soft-caps and odd widths are set where there are any."""

_EXPERTS = {**_PLAIN, **_DEPTH, "num_experts_per_tok": 2}
WITH_EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**_EXPERTS, "num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", {**_ROPE, **_EXPERTS, "num_experts": 6, "moe_intermediate_size": 24}),
    "mixtral": ("MixtralConfig", {**_EXPERTS, "num_local_experts": 6}),
}
"""The same of LLMs whose MLPs are mixtures of experts."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: ``<|im_start|>``, ``<|im_end|>`` (eos), ``<|pad|>``, at most ``VOCAB`` tokens; chat template."""
    made = Tokenizer.from_str(_learned_pieces())
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<|pad|>", eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


@cache
def _learned_pieces() -> str:
    """The tokenizer's JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def tiny_model(family: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random transformers model of ``family`` (4 blocks, width 32, float32); ``changes`` override the config.

    A copy of the one that was made first: checks ask for the same one many times.
    """
    key = (family, seed, repr(sorted(changes.items())))
    if key not in _MADE:
        _MADE[key] = Prototype(_made(family, seed, changes))
    return _MADE[key].copy()


def _made(family: str, seed: int, changes: Mapping[str, Any]) -> PreTrainedModel:
    name, arguments = {**FAMILIES, **WITH_EXPERTS}[family]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, name)(**{"vocab_size": VOCAB, **ids, **arguments, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # larger than the usual init, so that a wrong window, scale or mask shows
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_llm(family: str = "llama", seed: int = 0, **changes: Any) -> CausalLM:
    """The wrapper around ``tiny_model(family)`` with ``tiny_tokenizer()``.

    Its passes are compared with the model's own forward once in a process: checks build the same one many times.
    """
    key = (family, seed, repr(sorted(changes.items())))
    compared = key in _PRUNES
    llm = CausalLM(tiny_model(family, seed, **changes), tiny_tokenizer(), tolerance=math.inf if compared else None)
    llm.prunes = _PRUNES.setdefault(key, llm.prunes)
    return llm


_MADE: dict[tuple[str, int, str], Prototype[PreTrainedModel]] = {}
"""Models that were made."""
_PRUNES: dict[tuple[str, int, str], bool] = {}
"""Models that were compared -> what the comparison found about their last block."""


def tiny_llm_folder(tmp: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Folder with model and tokenizer as ``save_pretrained`` writes them."""
    folder = Path(tmp) / f"tiny-{family}-{seed}"
    tiny_model(family, seed, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
