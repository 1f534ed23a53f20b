"""The table of connectors: where each sits, its paper, tokens and parameters, and what its miniature recipe reaches.

``python -m benchmarks.connectors run [--names pool layerwise]`` trains and evaluates every ``recipes/mini/NAME.yaml``
of the table that has no results yet; ``python -m benchmarks.connectors table`` writes benchmarks/CONNECTORS.md and its
part of docs/results.md from the runs' own ``results.json``.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo import PAGE, machine, put

RUNS = Path("runs/connectors")
RESULTS = Path("benchmarks/CONNECTORS.md")
RECIPES = Path("recipes/mini")
BENCHMARKS = ("mini_digits", "mini_scenes", "mini_documents", "mini_grounding")
ELSEWHERE = ("demo", "swap_encoder", "easy_vqa")
"""Miniature recipes with a table of their own (benchmarks.demo)."""


@dataclass(frozen=True)
class Line:
    """What the table says of one recipe."""

    recipe: str
    kinds: tuple[str, ...]
    """Types of its connectors."""
    papers: tuple[str, ...]
    """arXiv numbers in the docstrings of the connector the recipe is about."""
    place: str
    """Of the connector it is about."""
    tokens: str
    """In the LLM's sequence, for one item of each encoder; a dash where it depends on the item."""
    n_trainable: int
    """Over all stages."""
    steps: tuple[int, ...]
    """Of each stage."""


def names() -> list[str]:
    """Every miniature recipe of pictures, in the order of the registry's connectors where one is named after it."""
    return ordered(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in ELSEWHERE and pictures(path))


def pictures(path: Path) -> bool:
    """Whether a recipe reads pictures and nothing else (the others: benchmarks.senses)."""
    from mmllm.recipe.load import load_recipe

    # by placeholders: a picture may be seen by several encoders
    return [key for key, part in load_recipe(path).connectors.items() if part.encoders] == ["image"]


def ordered(found: Iterable[str]) -> list[str]:
    """Names of recipes as the table has them."""
    from mmllm import registry

    known = list(registry.table("connectors"))
    return sorted(sorted(found), key=lambda name: known.index(name) if name in known else len(known))


def line(name: str) -> Line:
    """Build the recipe's parts once and read the facts off them."""
    from mmllm import registry
    from mmllm.model.build import build
    from mmllm.model.trainable import learning
    from mmllm.recipe import part_arguments
    from mmllm.recipe.load import load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml")
    model = build(recipe, "cpu")
    learned = {}
    for stage in recipe.stages.values():
        for wanted in stage.train:
            learned |= {id(p): p.numel() for p in learning(model, wanted).values()}
    kinds = tuple(part.type for part in recipe.connectors.values())
    beside = [kind for kind in kinds if kind not in ("pool", "lora", "window_resampler")]
    subject = name if name in kinds else (beside or kinds)[0]
    inside = "inside" if part_arguments.works_inside(subject) else "input"
    place = "encoder" if part_arguments.adapts_encoders(subject) else inside
    tokens = [entry.n_tokens() for entry in model.inputs.values()]
    return Line(
        recipe=name,
        kinds=kinds,
        papers=papers(registry.locate("connectors", subject).split(":")[0]),
        place=place,
        tokens=" + ".join("-" if one is None else str(one) for one in tokens),
        n_trainable=sum(learned.values()),
        steps=tuple(stage.steps or 0 for stage in recipe.stages.values()),
    )


def papers(module: str) -> tuple[str, ...]:
    """arXiv numbers in a module's docstrings, in order."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef))]
    return tuple(dict.fromkeys(re.findall(r"arXiv:? ?(\d{4}\.\d{4,5})", "\n".join(texts))))


def draw_world() -> None:
    """The miniature pictures, where they are not there yet."""
    from mmllm.miniature.tasks.images import write_world

    world = Path("data/mini/world")
    if not (world / "complete").is_file():
        write_world(world)


def run(chosen: Sequence[str]) -> None:
    """Train and evaluate every recipe without results; a killed command goes on where it was."""
    draw_world()
    for name in chosen:
        out = RUNS / name
        if (out / "results.json").is_file():
            continue
        command = [sys.executable, "-m", "mmllm"]
        subprocess.run([*command, "train", str(RECIPES / f"{name}.yaml"), "--out", str(out)], check=True)
        subprocess.run([*command, "eval", str(out)], check=True)


def scores(name: str, runs: Path = RUNS) -> dict[str, Any]:
    """Benchmark -> its entry in the run's results; empty where it has not run."""
    path = runs / name / "results.json"
    return json.loads(path.read_text())["benchmarks"] if path.is_file() else {}


def standing(file: Path, cells: Sequence[int] = (0,)) -> dict[tuple[str, ...], str]:
    """Lines of a written table by these cells: those of recipes whose run is not here stay as they are."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = {}
    for line in lines:
        values = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(values) > max(cells):
            found[tuple(values[i] for i in cells)] = line
    return found


def table(chosen: Sequence[str]) -> str:
    """Markdown, a line per recipe."""
    before = standing(RESULTS)
    heads = ["recipe", "connectors", "paper (arXiv)", "sits", "tokens", "learned", "steps"]
    heads += [name.removeprefix("mini_") for name in BENCHMARKS]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in chosen:
        if not scores(name) and (name,) in before:
            rows.append(before[(name,)])
            continue
        facts, found = line(name), scores(name)
        cells = [name, " + ".join(facts.kinds), ", ".join(facts.papers) or "-", facts.place, facts.tokens]
        cells += [f"{facts.n_trainable:,}", " + ".join(map(str, facts.steps))]
        cells += [f"{found[key]['score']:.3f}" if key in found else "not run" for key in BENCHMARKS]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def write(chosen: Sequence[str]) -> None:
    """Write CONNECTORS.md and its part of docs/results.md."""
    text = table(chosen)
    n = sorted({entry["n"] for name in chosen for entry in scores(name).values()}) or [300]
    seeds = "one seed (0); differences of a few points between lines mean nothing"
    RESULTS.write_text(
        "# Every connector's miniature recipe on the held-out test split\n\n"
        "Written by `python -m benchmarks.connectors table` from the runs that `python -m benchmarks.connectors run` "
        "made: `mmllm train recipes/mini/NAME.yaml`, then `mmllm eval`. Short trainings on miniature parts "
        "(data/mini/RESULTS.md), to show that each connector learns; what differs between connectors is tried on equal "
        f"terms in benchmarks/claims/RESULTS.md. Each score over n = {', '.join(map(str, n))} questions, {seeds}.\n\n"
        f"Machine: {machine()}.\n\n{text}\n"
    )
    put(PAGE, "connectors", "benchmarks.connectors", text)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connectors", description=__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--names", nargs="+", default=None, help="recipes of the table; default: all")
    arguments = parser.parse_args(argv)
    chosen = arguments.names or names()
    if arguments.action == "run":
        run(chosen)
    write(names())


if __name__ == "__main__":
    main()
