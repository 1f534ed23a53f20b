"""Whether the encoders whose features a recipe keeps (`cache`) are frozen; part of ``checks``."""

from __future__ import annotations

from collections.abc import Mapping

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.messages import Problems, unknown
from mmllm.recipe.models import ComponentSpec, Recipe
from mmllm.recipe.stage_sections import Cache
from mmllm.recipe.yaml_lines import Path


def check_cache(recipe: Recipe, cache: Cache, train: Mapping[str, float], path: Path, problems: Problems) -> None:
    """Features are kept of encoders that exist and whose features do not change."""
    for key in cache.encoders or ():
        if key not in recipe.encoders:
            problems.add((*path, "encoders"), f'found "{key}"; {unknown("encoder", key, recipe.encoders)}')
    for key in cache.encoders or recipe.encoders:
        why = None
        inside = [name for name, part in recipe.connectors.items() if key in _adapted(part)]
        if inside:
            why = f"connectors.{inside[0]} works inside encoders.{key}"
        elif any(name == f"encoders.{key}" or name.startswith(f"encoders.{key}.") for name in train):
            why = f"this stage trains encoders.{key}"
        if why is not None:
            others = [one for one in cache.encoders or recipe.encoders if one != key]
            rest = f"name the others, encoders: [{', '.join(others)}], or " if others else ""
            problems.add(path, f"{why}, whose features then change and cannot be kept; {rest}leave the word out")


def _adapted(part: ComponentSpec) -> tuple[str, ...]:
    """Encoders in whose blocks a connector works."""
    try:
        return (part.adapts or part.encoders) if part_arguments.adapts_encoders(part.type) else ()
    except registry.UnknownName:
        return ()  # already noted with the arguments
