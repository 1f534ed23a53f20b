"""The text model of a published multimodal folder as a causal LM of its own; called by ``llms/load.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from mmllm.errors import MmllmError
from mmllm.types import SEQUENTIAL, PositionScheme
from mmllm.vlms.families import Family
from mmllm.vlms.headed_decoder import HeadedDecoder
from mmllm.vlms.partial import load_part

# older files put the text model's own names below `language_model.`, newer ones the decoder below
# `model.language_model.`; Idefics3 calls it text_model
NAMES = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.(language_model|text_model)\.": "model.",
    r"^language_model\.model\.": "model.",
}


def load_text_model(
    path: str, config: PretrainedConfig, family: Family, dtype: torch.dtype, words: Mapping[str, Any]
) -> PreTrainedModel:
    """The causal LM whose logits for text are those of the whole model; ``words``: more for ``from_pretrained``.

    Raises:
        MmllmError: its text model is no causal LM that transformers has, or weights are missing.
    """
    names = _names(config, family)  # before the config is changed
    text = text_config(config, family)
    if family.causal_lm is not None:
        model = load_part(path, getattr(transformers, family.causal_lm), text, names, dtype, words)
        # its class says "language_model" (transformers 5.23), which it has not, and its decoder would not be found
        model.base_model_prefix = "model"
        return model
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        model = load_part(path, MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], text, names, dtype, words)
        if not hasattr(model, model.base_model_prefix):  # Llama 4's, as above
            model.base_model_prefix = "model"
        return model
    if type(text) not in MODEL_MAPPING:
        raise MmllmError(
            f"llm.path: {path!r} is {family.name}, whose text model ({text.model_type}) is no causal LM of "
            "transformers; give a causal LM of its own"
        )
    model = load_part(path, HeadedDecoder, text, NAMES, dtype, words)
    tower: Any = getattr(config, family.tower_config)
    if hasattr(tower, "tokens_per_second"):
        model.positions = PositionScheme("mrope", tower.tokens_per_second)
    return model


def scheme_of(model: PreTrainedModel) -> PositionScheme:
    """How an LLM counts positions."""
    return model.positions if isinstance(model, HeadedDecoder) else SEQUENTIAL


def chunk_of(config: Any) -> int | None:
    """Tokens of a chunk, for an LLM some of whose blocks see nothing outside of their own; None: none does."""
    kinds = config.layer_types if hasattr(config, "layer_types") else None
    return int(config.attention_chunk_size) if kinds and "chunked_attention" in kinds else None


def text_config(config: PretrainedConfig, family: Family) -> PretrainedConfig:
    """The text model's config as the whole model applies it: scales, tied head."""
    text: Any = config.get_text_config()
    if family.cross_attention is not None:
        taken = getattr(text, family.cross_attention)
        text.num_hidden_layers -= len(taken)
        setattr(text, family.cross_attention, [])
    # the head mostly belongs to the whole model, so its config says whether it is the embeddings; some never tie
    if not family.own_head:
        ties = hasattr(config, "tie_word_embeddings") and config.tie_word_embeddings
        text.tie_word_embeddings = bool(ties)
    for word, value in family.text.items():
        if hasattr(text, word):
            setattr(text, word, value)
    return text


def renamed(name: str, config: Any, family: Family) -> str:
    """Name of a tensor of a whole model as its text model by itself calls it."""
    for pattern, replacement in _names(config, family).items():
        name, found = re.subn(pattern, replacement, name)
        if found:
            break
    return name


def _names(config: Any, family: Family) -> dict[str, str]:
    """Patterns of the whole model's names -> the text model's own."""
    if family.cross_attention is None:
        return NAMES
    return {**_renumbered(config.get_text_config(), family.cross_attention), **NAMES}


def _renumbered(text: Any, word: str) -> dict[str, str]:
    """Patterns that number the blocks of text from 0 on, and take the names of the others out of the way."""
    taken, found, number = set(getattr(text, word)), {}, 0
    for index in range(text.num_hidden_layers):
        pattern = rf"^(model\.)?language_model\.(model\.)?layers\.{index}\."
        found[pattern] = f"{word}.{index}." if index in taken else f"model.layers.{number}."
        number += index not in taken
    return found


def chat_template_of(path: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template in the folder's ``chat_template.json``, where the tokenizer has none.

    Older multimodal folders keep it there, for the processor alone.
    """
    file = Path(path) / "chat_template.json"
    if tokenizer.chat_template is not None or not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmllmError(f"{file}: no chat template can be read from it ({error}); remove it or mend it") from error
