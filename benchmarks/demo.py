"""The table of the miniature recipes: trains, evaluates with and without the image, writes RESULTS.md and the pages.

``python -m benchmarks.demo run [--seeds 0 1 2] [--recipes demo swap_encoder]`` trains and evaluates what is missing;
``python -m benchmarks.demo table`` rewrites the tables from the runs' own ``results.json``.
``easy_vqa`` needs the public set: ``--easy-vqa FOLDER`` (see data/README.md).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

RUNS = Path("runs/benchmarks")
RESULTS = Path("benchmarks/RESULTS.md")
README = Path("README.md")
PAGE = Path("docs/results.md")
"""Has all rows; the README those of ``SHOWN`` and what the demo's model says."""
SHOWN = ("demo", "easy_vqa")
RECIPES = {name: Path(f"recipes/mini/{name}.yaml") for name in ("demo", "swap_encoder", "easy_vqa")}


def run(recipes: Sequence[str], seeds: Sequence[int], easy_vqa: Path | None) -> None:
    """Train and evaluate every (recipe, seed) that has no results yet; a killed command continues where it was."""
    from mmllm.miniature.tasks.images import write_world

    world = Path("data/mini/world")
    if not (world / "complete").is_file():
        write_world(world)
    for recipe in recipes:
        for seed in seeds:
            out = RUNS / f"{recipe}-seed{seed}"
            if (out / "results.json").is_file():
                continue
            overrides = [f"seed={seed}"]
            if recipe == "easy_vqa" and easy_vqa is not None:
                overrides += [f"data.train.path={easy_vqa}", f"eval.benchmarks.easy_vqa.path={easy_vqa}"]
            command = [sys.executable, "-m", "mmllm"]
            subprocess.run([*command, "train", str(RECIPES[recipe]), *overrides, "--out", str(out)], check=True)
            subprocess.run([*command, "eval", str(out), "--blind"], check=True)


def collect() -> list[dict[str, Any]]:
    """One row per finished run and benchmark, from the runs' results.json."""
    rows = []
    for path in sorted(RUNS.glob("*-seed*/results.json")):
        recipe, seed = path.parent.name.rsplit("-seed", 1)
        for name, scored in json.loads(path.read_text())["benchmarks"].items():
            rows.append({"recipe": recipe, "seed": int(seed), "benchmark": name, **scored})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line per recipe and benchmark, the mean over seeds and the range."""
    lines = [
        "| recipe | benchmark | metric | score | blind | seeds (min-max) | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe in RECIPES:
        names = dict.fromkeys(row["benchmark"] for row in rows if row["recipe"] == recipe)
        for name in names:
            group = [row for row in rows if row["recipe"] == recipe and row["benchmark"] == name]
            scores = [row["score"] for row in group]
            lines.append(
                f"| {recipe} | {name} | {group[0]['metric']} | {mean(scores):.3f} "
                f"| {mean(row['blind'] for row in group):.3f} | {len(group)} ({min(scores):.3f}-{max(scores):.3f}) "
                f"| {group[0]['n']} |"
            )
    return "\n".join(lines)


def shown(run: Path) -> str:
    """What a run says of itself: a line per benchmark, then its answer to the first held-out question of each."""
    results = json.loads((run / "results.json").read_text())["benchmarks"]
    lines = [
        f"{name:15} {row['metric']:12} {row['score']:.3f}  95 % {row['interval'][0]:.3f}-{row['interval'][1]:.3f}  "
        f"blind {row['blind']:.3f}  n {row['n']}"
        for name, row in results.items()
    ]
    for name in results:
        rows = (run / "predictions" / f"{name}.jsonl").read_text().splitlines()
        first = next(row for row in map(json.loads, rows) if "prediction" in row)
        question = first["question"].removeprefix("<image>\n")
        truth = first["references"] if row_is_box(first) else first["references"][0]
        lines.append(f"{name:15} {question}  {first['prediction'].strip()}  (truth: {truth})")
    return "\n".join(lines)


def row_is_box(row: dict[str, Any]) -> bool:
    """Whether the references are the four numbers of a box instead of accepted answers."""
    return all(isinstance(value, float) for value in row["references"])


def machine() -> str:
    """Processor, cores and versions the figures were measured with."""
    import os

    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return f"{cpu}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}, torch {torch.__version__}"


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write RESULTS.md, and the pages between their marks. Raises SystemExit when no run is finished."""
    if not rows:
        raise SystemExit(f"no finished run below {RUNS}: run `python -m benchmarks.demo run` first")
    text = table(rows)
    RESULTS.write_text(
        "# Miniature recipes on the held-out test split\n\n"
        "Written by `python -m benchmarks.demo table` from the runs that `python -m benchmarks.demo run` made. "
        "The parts are miniature (data/mini/RESULTS.md), made to test the machinery: not foundation models.\n\n"
        f"Machine: {machine()}.\n\n{text}\n"
    )
    put(PAGE, "results", "benchmarks.demo", text)
    put(README, "results", "benchmarks.demo", table([row for row in rows if row["recipe"] in SHOWN]))
    put(README, "demo", "benchmarks.demo", f"```text\n{shown(RUNS / 'demo-seed0')}\n```")


def put(page: Path, name: str, module: str, block: str) -> None:
    """Replace what stands in a page between the marks of ``name``, which say that ``module`` writes it."""
    start, end = f"<!-- {name}: written by python -m {module} table -->", f"<!-- end of {name} -->"
    before, rest = page.read_text().split(start)
    page.write_text(f"{before}{start}\n\n{block}\n\n{end}{rest.split(end)[1]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), default=["demo", "swap_encoder"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--easy-vqa", type=Path, default=None, help="folder with easy-VQA's train/ and test/")
    arguments = parser.parse_args(argv)
    if arguments.action == "run":
        run(arguments.recipes, arguments.seeds, arguments.easy_vqa)
    write(collect())


if __name__ == "__main__":
    main()
