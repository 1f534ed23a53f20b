"""Whether weights that a connector has from data before it learns can be computed; part of ``checks``."""

from __future__ import annotations

from mmllm.recipe.messages import Problems, unknown
from mmllm.recipe.models import ComponentSpec, Recipe, Stage
from mmllm.recipe.yaml_lines import Path

CALIBRATED = "calibrated"


def check_computed(key: str, part: ComponentSpec, recipe: Recipe, problems: Problems) -> None:
    """A start by data, or a calibrated norm: of a connector with items that a stage trains, on one GPU's whole LLM."""
    start = part.start if part.start is not None and part.start.by is not None else None
    found: list[tuple[Path, str]] = []
    if start is not None:
        found.append((("connectors", key, "start"), f"start: {start.by}"))
    if part.args.get("norm") == CALIBRATED:
        found.append((("connectors", key, "norm"), f"norm: {CALIBRATED}"))
    for entry in () if start is None else start.data or ():
        if entry not in recipe.data:
            problems.add((*found[0][0], "data"), f'found "{entry}"; {unknown("data entry", entry, recipe.data)}')
    stages = [one for one in recipe.stages.values() if trains(one, key)]
    for path, word in found:
        if part.source is None:
            problems.add(path, f"{word} is computed from items, and a connector without `from` has none; remove it")
        elif recipe.stages and not stages:
            problems.add(path, f"{word} is computed before the connector learns, and no stage trains it; name it there")
        elif any(stage.zero == 3 for stage in recipe.stages.values()):
            problems.add(path, f"{word} looks at whole weights, which zero: 3 splits; use 2 or less")


def trains(stage: Stage, key: str) -> bool:
    """Whether a connector, or something in it, learns in a stage."""
    return any(f"{name}.".startswith(f"connectors.{key}.") for name in stage.train)
