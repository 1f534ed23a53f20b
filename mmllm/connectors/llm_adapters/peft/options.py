"""Arguments of each method of the ``peft`` connector with their defaults, and checks of those that are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmllm.errors import MmllmError
from mmllm.hooks.points import LLMHookPoints

LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "rslora": False, "targets": "all-linear"}
POLY = {"rank": 8, "tasks": None, "default_task": None, "skills": 4, "targets": "all-linear"}
XLORA = {"depth": 1, "width": 2048, "dropout": 0.2, "layerwise": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "dora": LORA,
    "ia3": {"targets": None, "feedforward": None},
    "poly": POLY,
    "mhr": {**POLY, "splits": 4},
    "arrow": {"adapters": None, "top_k": 3, "temperature": 1.0},
    "xlora": {"adapters": None, "top_k": None, "temperature": 1.0, **XLORA},
}
"""Method -> the arguments it takes, with their defaults (peft's own where it has them)."""
ARGUMENTS = frozenset(name for options in OPTIONS.values() for name in options)
"""Every argument that some method takes."""
POSITIVE = ("rank", "alpha", "skills", "splits", "top_k", "temperature", "depth", "width")
"""Numbers that must be above 0."""


def options(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the recipe over the defaults of the method.

    Raises:
        MmllmError: an unknown method, an argument it does not take or lacks, or a value out of range.
    """
    if method not in OPTIONS:
        raise MmllmError(f"peft: method {method!r} is unknown; known: {', '.join(OPTIONS)}.")
    strange = sorted(given.keys() - OPTIONS[method].keys())
    if strange:
        raise MmllmError(f"peft: method {method} takes no {strange[0]}; it takes {', '.join(OPTIONS[method])}.")
    found = {**OPTIONS[method], **given}
    for name in ("tasks", "adapters"):
        if name in found and not found[name]:
            raise MmllmError(f"peft: method {method} needs {name}: a list with at least one entry.")
    for name in POSITIVE:
        if found.get(name) is not None and found[name] <= 0:
            raise MmllmError(f"peft: {name} {found[name]} must be above 0.")
    if not 0 <= found.get("dropout", 0) < 1:
        raise MmllmError(f"peft: dropout {found['dropout']} must be in [0, 1).")
    if found.get("default_task") is not None and found["default_task"] not in found["tasks"]:
        raise MmllmError(f"peft: default_task {found['default_task']!r} is none of tasks, {', '.join(found['tasks'])}.")
    if found.get("top_k") is not None and found["top_k"] > len(found["adapters"]):
        raise MmllmError(f"peft: top_k {found['top_k']} is more than the {len(found['adapters'])} adapters.")
    return found


def family_layers(llm: LLMHookPoints, table: Mapping[str, list[str]]) -> list[str]:
    """peft's own choice of ia3 layers for this LLM's family.

    Raises:
        MmllmError: it has none.
    """
    family = llm.model.config.get_text_config().model_type
    if family not in table:
        raise MmllmError(f"peft: the library names no ia3 layers for {family}; give targets and feedforward.")
    return table[family]
