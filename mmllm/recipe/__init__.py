"""The recipe: YAML read into frozen, checked models; the first step of everything, without torch."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {"mmllm.recipe.load": ("digest", "dump", "load_recipe", "parse"), "mmllm.recipe.models": ("Recipe", "Stage")}


def __getattr__(name: str) -> Any:
    """``from mmllm.recipe import load_recipe`` and the like; imported when asked for: pydantic takes its time."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
