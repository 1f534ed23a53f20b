"""Saves the miniature LM as a Llama folder, which AutoTokenizer and AutoModelForCausalLM read as it was trained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2ForCausalLM

KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "hidden_act",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def as_llama(model: Qwen2ForCausalLM) -> LlamaForCausalLM:
    """The same function as a Llama with attention biases.

    A qwen2 folder would not do: transformers 5 gives it Qwen2's own pre-tokenizer whatever tokenizer.json says, and our
    places and numbers would fall apart without a word.
    """
    whole = model.config.to_dict()
    llama = LlamaForCausalLM(LlamaConfig(attention_bias=True, **{key: whole[key] for key in KEPT})).eval()
    weights = dict(model.state_dict())
    for name, tensor in llama.state_dict().items():
        if name.endswith("o_proj.bias"):
            # Qwen2 has no bias there
            weights[name] = torch.zeros_like(tensor)
    llama.load_state_dict(weights)
    return llama


def save_lm(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the Hugging Face folder (float32 safetensors) with its tokenizer."""
    as_llama(model).save_pretrained(out)
    tokenizer.save_pretrained(out)
