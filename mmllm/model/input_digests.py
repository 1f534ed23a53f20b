"""Digests of what a model is fed through besides its weights: tokenizer, chat template, each encoder's preprocessing.

They go into every checkpoint; a run whose tokenizer or preprocessing changed would answer worse and never say why. So
does how the LLM counts positions, where that is not one after the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from mmllm.encoders.base import Encoder
from mmllm.model.model import MultimodalLM
from mmllm.processors.settings import settings, vocabulary
from mmllm.types import SEQUENTIAL


def input_digests(model: MultimodalLM) -> dict[str, str]:
    """sha256 (hex) of ``tokenizer``, ``template``, ``preprocessing.<encoder key>``, ``question.<connector key>`` and
    perhaps ``positions``."""
    tokenizer = model.llm.tokenizer
    words = [vocabulary(tokenizer), tokenizer.special_tokens_map] if tokenizer.is_fast else []
    found = {"tokenizer": _digest(words), "template": _digest(tokenizer.chat_template)}
    if model.llm.positions != SEQUENTIAL:
        found["positions"] = _digest(asdict(model.llm.positions))
    for key, encoder in model.encoders.items():
        assert isinstance(encoder, Encoder)
        found[f"preprocessing.{key}"] = _digest(settings(encoder.processor))
    for key, entry in model.inputs.items():
        if entry.questions is not None:
            found[f"question.{key}"] = _digest(entry.questions.settings())
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
