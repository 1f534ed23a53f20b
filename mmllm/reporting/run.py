"""What a run's folder says of it: parts, learned parameters, metrics of training, scores and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.checkpoints.load import last_checkpoint, run_recipe
from mmllm.errors import MmllmError
from mmllm.evaluation.predictions import Prediction, kept

if TYPE_CHECKING:
    from mmllm.recipe.models import Recipe

LEARNED = "learned.safetensors"


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it."""

    folder: Path
    recipe: Recipe
    checkpoint: str
    """Stage and step of the newest checkpoint, in words."""
    learned: Mapping[str, int]
    """Part -> number of parameters that it learned."""
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]
    """Stage -> lines of metrics in the order of their steps."""
    results: Mapping[str, Any]
    """``results.json``, empty where it was not scored."""
    answers: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    """Benchmark -> its answers."""


def read(folder: Path) -> Run:
    """Read a run's folder; MmllmError where it is none. Nothing of the model is loaded."""
    recipe = run_recipe(folder)
    found, _ = last_checkpoint(folder, recipe)
    results = _json(folder / "results.json")
    answers = {
        name: list(kept(folder / "predictions" / f"{name}.jsonl", entry["key"], failed=True).values())
        for name, entry in results.get("benchmarks", {}).items()
    }
    if found is None:
        return Run(folder, recipe, "no checkpoint yet", {}, _metrics(folder), results, answers)
    words = f"stage {found.manifest.stage}, step {found.manifest.step:,}"
    return Run(folder, recipe, words, _learned(found.path / LEARNED), _metrics(folder), results, answers)


def entries_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """Benchmark -> type and arguments: as it was scored, or, in older results, as the recipe has it."""
    scored = run.results.get("benchmarks", {})
    return {
        name: scored.get(name, {}).get("part") or run.recipe.eval.benchmarks[name]
        for name in {**run.recipe.eval.benchmarks, **scored}
        if scored.get(name, {}).get("part") or name in run.recipe.eval.benchmarks
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MmllmError(f"{path} is not JSON ({error}); score the run again (`mmllm eval`).") from error
    return found


def _metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of each stage; a step that was done again after a kill counts as it was done last."""
    stages: dict[str, dict[int, dict[str, Any]]] = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        stages.setdefault(row["stage"], {})[row["step"]] = row
    return {stage: [rows[step] for step in sorted(rows)] for stage, rows in stages.items()}


def _learned(file: Path) -> dict[str, int]:
    from safetensors import safe_open

    if not file.is_file():
        return {}
    counts: dict[str, int] = {}
    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():
            part = name if name.startswith("llm") else ".".join(name.split(".")[:2])
            part = "llm" if part.startswith("llm") else part
            counts[part] = counts.get(part, 0) + prod(tensors.get_slice(name).get_shape())
    return counts
