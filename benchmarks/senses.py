"""The table of the other senses: what each miniature recipe of video, sound, graphs, points and texts reaches.

``python -m benchmarks.senses run [--names video sound] [--data FOLDER]`` trains and evaluates every ``recipes/mini``
recipe that reads more than pictures and has no results yet; FOLDER (default: the environment's MMLLM_TEST_DATA) holds
``fsdd``. ``python -m benchmarks.senses table`` writes benchmarks/SENSES.md and its part of docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.connectors import RECIPES, draw_world, line, ordered, pictures, scores, standing
from benchmarks.demo import PAGE, machine, put

RUNS = Path("runs/senses")
RESULTS = Path("benchmarks/SENSES.md")
ELSEWHERE = ("cora",)
"""Recipes with a table of their own (benchmarks.graphs)."""
HOME = Path("data/mini")


def names() -> list[str]:
    """Every miniature recipe that reads another sense."""
    return ordered(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in ELSEWHERE and not pictures(path))


def senses_of(name: str) -> list[str]:
    """Folders of miniature data that a recipe's paths name; what is made of others comes last."""
    from mmllm.miniature.__main__ import SENSES

    text = (RECIPES / f"{name}.yaml").read_text()
    return [sense for sense in SENSES if f"{HOME}/{sense}/" in text]


def overrides(name: str, data: Path | None) -> list[str]:
    """What a recipe of real data needs to be told: where it is."""
    from mmllm.recipe.load import load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml")
    real = [key for key, part in recipe.data.items() if part.type == "fsdd"]
    if not real:
        return []
    if data is None:
        raise SystemExit(f"{name} reads the Free Spoken Digit Dataset: name the folder that holds fsdd with --data")
    told = [f"data.{key}.path={data / 'fsdd'}" for key in real]
    return told + ([f"eval.benchmarks.fsdd.path={data / 'fsdd'}"] if "fsdd" in recipe.eval.benchmarks else [])


def run(chosen: Sequence[str], data: Path | None) -> None:
    """Train and evaluate every recipe without results; a killed command goes on where it was."""
    command = [sys.executable, "-m"]
    for name in chosen:
        out = RUNS / name
        if (out / "results.json").is_file():
            continue
        if f"{HOME}/world/" in (RECIPES / f"{name}.yaml").read_text():
            draw_world()
        for sense in senses_of(name):
            if not (HOME / sense / "complete").is_file():
                subprocess.run([*command, "mmllm.miniature", "sense", sense], check=True)
        told = overrides(name, data)
        subprocess.run(
            [*command, "mmllm", "train", str(RECIPES / f"{name}.yaml"), "--out", str(out), *told], check=True
        )
        subprocess.run([*command, "mmllm", "eval", str(out)], check=True)


def table(chosen: Sequence[str]) -> str:
    """Markdown, a line per recipe and benchmark."""
    from mmllm.recipe.load import load_recipe

    before = standing(RESULTS, (0, 8))
    heads = ["recipe", "encoders", "connectors", "paper (arXiv)", "sits", "tokens", "learned", "steps"]
    heads += ["benchmark", "score", "95 %", "blind", "n"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in chosen:
        recipe, facts, found = load_recipe(RECIPES / f"{name}.yaml"), line(name), scores(name, RUNS)
        cells = [name, ", ".join(dict.fromkeys(part.type for part in recipe.encoders.values()))]
        cells += [" + ".join(dict.fromkeys(facts.kinds)), ", ".join(facts.papers) or "-", facts.place, facts.tokens]
        cells += [f"{facts.n_trainable:,}", " + ".join(str(steps or "epochs") for steps in facts.steps)]
        for benchmark in recipe.eval.benchmarks:
            if benchmark not in found and (name, benchmark) in before:
                rows.append(before[name, benchmark])
                continue
            rows.append("| " + " | ".join([*cells, benchmark, *_reached(found.get(benchmark))]) + " |")
    return "\n".join(rows)


def _reached(entry: dict[str, Any] | None) -> list[str]:
    """Score, its interval, the score without media, questions."""
    if entry is None:
        return ["not run", "-", "-", "-"]
    low, high = entry["interval"]
    blind = entry.get("blind")
    return [f"{entry['score']:.3f}", f"{low:.3f}-{high:.3f}", "-" if blind is None else f"{blind:.3f}", str(entry["n"])]


def write(chosen: Sequence[str]) -> None:
    """Write SENSES.md and its part of docs/results.md."""
    text = table(chosen)
    RESULTS.write_text(
        "# What the miniature recipes of the other senses reach\n\n"
        "Written by `python -m benchmarks.senses table` from the runs that `python -m benchmarks.senses run` made: "
        "`python -m mmllm.miniature sense SENSE`, `mmllm train recipes/mini/NAME.yaml`, `mmllm eval`. Short trainings "
        "on miniature parts with one seed (0), on held-out questions, to show that each system learns; what differs "
        "between connectors is tried on equal terms in benchmarks/claims/RESULTS.md. *blind*: the same questions "
        f"without the media.\n\nMachine: {machine()}.\n\n{text}\n"
    )
    put(PAGE, "senses", "benchmarks.senses", text)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.senses", description=__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--names", nargs="+", default=None, help="recipes of the table; default: all")
    given = os.environ.get("MMLLM_TEST_DATA")
    parser.add_argument("--data", type=Path, default=Path(given) if given else None, help="folder that holds fsdd")
    arguments = parser.parse_args(argv)
    if arguments.action == "run":
        run(arguments.names or names(), arguments.data)
    write(names())


if __name__ == "__main__":
    main()
