"""What of a recipe shapes the weights it trains, and what may change afterwards; for checkpoints and resumed runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmllm import registry
from mmllm.recipe.models import Recipe

PLACES = ("path", "media", "model", "pretrained", "videos", "mapping", "graph", "file", "start", "tokenizer")
"""Arguments of parts that say where something lies. What lies there counts by its digest, wherever it has moved."""
LLM_PLACES = (*PLACES, "template")
"""The same for the LLM, whose template may be a file; elsewhere the word means something else."""
STAGE_WORDS = ("workers", "save_every", "keep", "log_every", "monitor")
"""Words of a stage that leave its weights as they are."""
LLM_WORDS = ("context", "dtype")
"""Words of the LLM that a finished run may change: they were the training's, and use has its own."""
IMPORTED = "imported"
"""Stands for a stage in the folder of an imported run: the weights as they were published, before any stage."""
FREE = "eval, serve, llm.context, llm.dtype, paths and media folders"
"""What may change in a finished run, as its errors say it."""


def shaping(recipe: Recipe, stage: str | None = None, *, finished: bool = False) -> dict[str, Any]:
    """Return what shaped the weights at the end of ``stage`` (default: of the last), as plain JSON.

    Left out are ``name``, ``eval`` and ``serve``, places of files, words of a stage that only keep books, stages that
    come later, data that no stage so far reads, and, with ``finished``, the LLM's words that use may set anew.
    """
    data = recipe.model_dump(mode="json", exclude_none=True)
    names = list(recipe.stages)
    done = names if stage is None or stage not in names else names[: names.index(stage) + 1]
    done = [] if stage == IMPORTED else done
    stages = {name: _stage(data["stages"][name]) for name in done}
    read = {key for words in stages.values() for key in words["data"]}
    aside = (*LLM_PLACES, *LLM_WORDS) if finished else LLM_PLACES
    llm = {word: value for word, value in data["llm"].items() if word not in aside}
    return {
        "seed": data["seed"],
        "llm": llm,
        **{group: {key: _placeless(part) for key, part in data[group].items()} for group in ("encoders", "connectors")},
        "data": {key: _named(_placeless(part)) for key, part in data["data"].items() if key in read},
        "stages": stages,
    }


def _stage(words: dict[str, Any]) -> dict[str, Any]:
    """A stage without words that keep books; of kept features what they are rounded to, not where they lie."""
    found = {word: value for word, value in words.items() if word not in STAGE_WORDS}
    if "cache" in found:
        found["cache"] = {word: value for word, value in found["cache"].items() if word != "dir"}
    return found


def _named(part: dict[str, Any]) -> dict[str, Any]:
    """A dataset by its class: it may have two names."""
    try:
        return {**part, "type": registry.locate("datasets", part["type"])}
    except registry.UnknownName:
        return part


def changes(old: Any, new: Any, where: str = "") -> list[str]:
    """Return a clause for each value in which two recipes (or parts of them, as JSON) differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = list(dict.fromkeys([*old, *new]))
        found = [line for key in keys for line in changes(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
        return found or ([f"{where or 'the recipe'} is in another order"] if list(old) != list(new) else [])
    return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]


def listed(found: list[str], most: int = 6) -> str:
    """Return changes as one clause, the first few named and the rest counted."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more


def _placeless(value: Any) -> Any:
    """A part without its places, those of parts inside it included; a part's arguments count as its own words."""
    if not isinstance(value, dict):
        return value
    flat = {**{word: one for word, one in value.items() if word != "args"}, **value.get("args", {})}
    # `model` of open_clip is an architecture and no place: what it changes shows in the weights' digest
    return {word: _placeless(one) for word, one in flat.items() if word not in PLACES or _computed(word, one)}


def _computed(word: str, value: Any) -> bool:
    """Whether a start is no place, but computed from data."""
    return word == "start" and isinstance(value, dict) and value.get("by") is not None
