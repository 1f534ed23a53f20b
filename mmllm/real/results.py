"""What a run of a real model reached, as one small file that the documentation's tables are written from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from mmllm.checkpoints.load import last_checkpoint, run_recipe
from mmllm.checkpoints.store import LEARNED
from mmllm.errors import MmllmError
from mmllm.evaluation.run import opened
from mmllm.files.safetensors_files import tensors
from mmllm.real.run import ASKED, TEXTS, TIMES, samples, write_json
from mmllm.recipe.models import Recipe

FOLDER = Path("data/real/results")
"""Where they are kept, in the repository."""
WORDS = ("metric", "score", "n", "total", "limit", "interval", "blind", "unparsed", "failed")
KIND_WORDS = ("score", "n", "interval", "blind", "rule")


def keep(run: Path, name: str, folder: Path = FOLDER, pictures: Path | None = None) -> Path:
    """Write ``folder/name.json`` from the run's newest results, metrics and texts; returns it.

    ``pictures``: a folder into which the pictures of its sample answers are copied; without one it has no samples.

    Raises:
        MmllmError: no results yet, or a name that is no file's.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise MmllmError(f"--as {name}: a name is letters, digits, _, - and dots.")
    found = sorted(run.glob("results*.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise MmllmError(f"{run} has no results; evaluate it: mmllm eval {run}")
    recipe = run_recipe(run)
    results = json.loads(found[-1].read_text(encoding="utf-8"))
    checkpoint, _ = last_checkpoint(run, recipe)
    steps = [line for line in _metrics(run / "metrics.jsonl") if "loss" in line]
    before = _read(folder / f"{name}.json").get("stages", {})
    stages = {}
    for stage in recipe.stages:
        own = [line for line in steps if line["stage"] == stage]
        # a run that goes on from published weights has no lines of the stages before
        stages[stage] = before[stage] if not own and stage in before else _stage(own)
    kept: dict[str, Any] = {
        "seed": recipe.seed,
        "recipe": recipe.name,
        "learned": 0 if checkpoint is None else _n_learned(checkpoint.path / LEARNED),
        "connectors": {key: part.type for key, part in recipe.connectors.items()},
        "stages": stages,
        "machine": results["machine"],
        "benchmarks": {one: _benchmark(entry) for one, entry in results["benchmarks"].items()},
        "times": _read(run / TIMES),
        "samples": _samples(run, recipe, pictures),
        "text": {word: value for word, value in _read(run / TEXTS).items() if word != "prompts"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", kept)
    return folder / f"{name}.json"


def _samples(run: Path, recipe: Recipe, pictures: Path | None) -> list[dict[str, str]]:
    if pictures is None:
        return []
    pictures.mkdir(parents=True, exist_ok=True)
    asked = {}
    for benchmark in opened(recipe.eval.benchmarks):
        for index in range(min(ASKED, len(benchmark))):
            question = benchmark[index]
            asked[question.sample.name] = question
    found = []
    for name, row in samples(run):
        if row["name"] not in asked:  # of benchmarks that only the command line named
            continue
        shown = next(item for items in asked[row["name"]].sample.media.values() for item in items)
        picture = ""
        if shown.suffix == ".png":
            picture = f"{name}-{shown.name}"
            shutil.copyfile(shown, pictures / picture)
        entry = {"media": shown.name, "picture": picture, "question": row["question"]}
        found.append({**entry, "answer": row["prediction"], "truth": str(row["references"][0])})
    return found


def _metrics(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _stage(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "steps": len(lines),
        "conversations": sum(line["samples"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines)),
        "loss": round(sum(line["loss"] for line in lines[-10:]) / max(1, len(lines[-10:])), 4),
    }


def _benchmark(entry: Mapping[str, Any]) -> dict[str, Any]:
    rule = entry["rule"]
    return {
        **{word: entry[word] for word in WORDS},
        "rule": None if rule is None else rule["score"],
        "rule_name": None if rule is None else rule["rule"],
        "kinds": {kind: {word: one[word] for word in KIND_WORDS} for kind, one in entry["kinds"].items()},
    }


def _n_learned(file: Path) -> int:
    return sum(prod(shape) for shape in tensors(file).values())


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
