"""Frozen LLMs and encoders that are in memory, found again by the digests with which a run was trained.

A run names them by the digests in its checkpoint's manifest; what was loaded for one run and held to its digests is the
same part for every run with equal ones. They go when the last run that uses them does.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any
from weakref import WeakValueDictionary

from mmllm.checkpoints.store import Manifest
from mmllm.encoders.base import Encoder
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import LLM_PLACES, PLACES

LLM = "llm"


class FrozenParts:
    """What is in memory."""

    def __init__(self) -> None:
        self._llms: WeakValueDictionary[Hashable, CausalLM] = WeakValueDictionary()
        self._encoders: WeakValueDictionary[Hashable, Encoder] = WeakValueDictionary()

    def llm(self, recipe: Recipe, told: Manifest) -> CausalLM | None:
        """The LLM of a run; None: none that is the same was loaded."""
        key = _llm_key(recipe, told)
        return None if key is None else self._llms.get(key)

    def encoders(self, recipe: Recipe, told: Manifest) -> dict[str, Encoder]:
        """Key -> encoder of a run, of those that were loaded."""
        keys = {name: _encoder_key(recipe, told, name) for name in recipe.encoders}
        found = {name: self._encoders.get(key) for name, key in keys.items() if key is not None}
        return {name: one for name, one in found.items() if one is not None}

    def keep(self, model: MultimodalLM, recipe: Recipe, told: Manifest) -> None:
        """Let the frozen parts of a run, which were held to its digests, be found."""
        key = _llm_key(recipe, told)
        if key is not None:
            self._llms[key] = model.llm
        for name, encoder in model.encoders.items():
            key = _encoder_key(recipe, told, name)
            if key is not None:
                self._encoders[key] = encoder  # type: ignore[assignment]


def _llm_key(recipe: Recipe, told: Manifest) -> Hashable | None:
    """What makes the LLM of two runs the same.

    None where it learns, has new tokens, or is of a checkpoint that does not say what its tokenizer was.
    """
    if LLM not in told.frozen or recipe.llm.new_tokens or not told.inputs:
        return None
    inputs = tuple(told.inputs.get(name) for name in ("tokenizer", "template", "positions"))
    words = {name: value for name, value in recipe.llm.model_dump(mode="json").items() if name not in LLM_PLACES}
    return told.frozen[LLM], inputs, json.dumps(words, sort_keys=True)


def _encoder_key(recipe: Recipe, told: Manifest, name: str) -> Hashable | None:
    digest, preprocessing = told.frozen.get(f"encoders.{name}"), told.inputs.get(f"preprocessing.{name}")
    if digest is None or preprocessing is None:
        return None
    words = _placeless(recipe.encoders[name].model_dump(mode="json", exclude_none=True))
    return name, digest, preprocessing, recipe.llm.dtype, json.dumps(words, sort_keys=True)


def _placeless(words: dict[str, Any]) -> dict[str, Any]:
    """Words of an encoder without those that say where it lies."""
    inner = {name: _placeless(value) if isinstance(value, dict) else value for name, value in words.items()}
    return {name: value for name, value in inner.items() if name not in PLACES}
