"""The text model of a published multimodal folder as a causal LM of its own; called by ``llms/load.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mmllm.errors import MmllmError
from mmllm.vlms.families import Family
from mmllm.vlms.partial import load_part

# older files put the text model's own names below `language_model.`, newer ones the decoder below
# `model.language_model.`; Idefics3 calls it text_model
NAMES = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.(language_model|text_model)\.": "model.",
    r"^language_model\.model\.": "model.",
}
_ROTATIONS = ("mrope_section", "mrope_interleaved")


def load_text_model(
    path: str, config: PretrainedConfig, family: Family, dtype: torch.dtype, words: Mapping[str, Any]
) -> PreTrainedModel:
    """The causal LM whose logits for text are those of the whole model; ``words``: more for ``from_pretrained``.

    Raises:
        MmllmError: its text model is no causal LM that transformers has, or weights are missing.
    """
    text = text_config(config, family)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise MmllmError(
            f"llm.path: {path!r} is {family.name}, whose text model ({text.model_type}) is no causal LM of "
            "transformers; give a causal LM of its own"
        )
    return load_part(path, MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], text, NAMES, dtype, words)


def text_config(config: PretrainedConfig, family: Family) -> PretrainedConfig:
    """The text model's config as the whole model applies it: scales, tied head, positions of text.

    With one position per token M-RoPE (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191) is ordinary RoPE.
    """
    text: Any = config.get_text_config()
    if family.text_class is not None:
        text = _plain_rope(text, getattr(transformers, family.text_class))
    # the head mostly belongs to the whole model, so its config says whether it is the embeddings; some never tie
    if not family.own_head:
        ties = hasattr(config, "tie_word_embeddings") and config.tie_word_embeddings
        text.tie_word_embeddings = bool(ties)
    for word, value in family.text.items():
        if hasattr(text, word):
            setattr(text, word, value)
    return text


def _plain_rope(text: Any, kind: type[PretrainedConfig]) -> PretrainedConfig:
    """The same decoder's config with one position per token."""
    words = {word: value for word, value in text.to_dict().items() if word != "model_type"}
    rope = {word: value for word, value in (words.pop("rope_parameters") or {}).items() if word not in _ROTATIONS}
    # `mrope` is how older files call the default type with three positions
    for word in ("rope_type", "type"):
        if rope.get(word) == "mrope":
            rope[word] = "default"
    return kind(**words, rope_parameters=rope)


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
