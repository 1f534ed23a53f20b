"""Spoken digits by ears that have heard generated sound only: the official test part, and speakers never heard.

``python -m benchmarks.digits run [--data FOLDER]`` trains and evaluates ``recipes/mini/fsdd.yaml`` for every seed and
for every speaker left out, where there are no results yet; FOLDER (default: the environment's MMLLM_TEST_DATA) holds
``fsdd``. ``python -m benchmarks.digits table`` writes benchmarks/DIGITS.md from the runs' own ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.demo import machine

RUNS = Path("runs/digits")
RESULTS = Path("benchmarks/DIGITS.md")
RECIPE = Path("recipes/mini/fsdd.yaml")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SEEDS = (0, 1, 2)


def runs() -> Iterator[tuple[Path, int, str | None]]:
    """Folder, seed, and the speaker never heard (None: all are heard) of every run."""
    for seed in SEEDS:
        yield RUNS / f"takes-seed{seed}", seed, None
    for speaker in SPEAKERS:
        yield RUNS / f"{speaker}-seed0", 0, speaker


def run(data: Path) -> None:
    """Train and evaluate every run that has no results yet; a killed command continues where it was."""
    from mmllm.evaluation.run import evaluate
    from mmllm.recipe.load import load_recipe
    from mmllm.training.run import train

    if not (data / "fsdd").is_dir():
        raise SystemExit(f"there is no {data / 'fsdd'}; say with --data which folder holds fsdd")
    path = {"path": str(data / "fsdd")}
    for out, seed, left_out in runs():
        if (out / "results.json").is_file():
            continue
        words: dict[str, Any] = {"seed": seed, "eval.blind": left_out is None, "data.train.path": path["path"]}
        words["eval.benchmarks.fsdd"] = path if left_out is None else {**path, "speakers": [left_out]}
        if left_out is not None:
            words["data.train.speakers"] = [speaker for speaker in SPEAKERS if speaker != left_out]
        recipe = load_recipe(RECIPE, [f"{name}={json.dumps(value)}" for name, value in words.items()])
        train(recipe, out)
        evaluate(out)


def found() -> Mapping[str, dict[str, Any]]:
    """Run -> what it reached; SystemExit where one is missing."""
    rows = {}
    for out, _, _ in runs():
        if not (out / "results.json").is_file():
            raise SystemExit(f"{out} has no results.json; `python -m benchmarks.digits run` makes it")
        rows[out.name] = json.loads((out / "results.json").read_text())["benchmarks"]["fsdd"]
    return rows


def table() -> str:
    """The whole of DIGITS.md."""
    rows = found()
    lines = [
        "# Spoken digits, asked in words",
        "",
        "Written by `python -m benchmarks.digits table` from runs of `python -m benchmarks.digits run`; do not edit.",
        f"Free Spoken Digit Dataset, {RECIPE}: the audio encoder was trained on generated sound only and is frozen,",
        "the language model is frozen; a `window_resampler` and a `conformer_adapter` learn. Exact match; the interval",
        "is of the run's questions. *blind*: the same questions without the sound.",
        "",
        f"Machine: {machine()}.",
        "",
        "## Takes 5 and more heard, takes 0 to 4 asked (the official parts)",
        "",
        f"| seed | score | 95 % | blind | n | {' | '.join(SPEAKERS)} |",
        "|---|---|---|---|---|" + "---|" * len(SPEAKERS),
    ]
    takes = [rows[f"takes-seed{seed}"] for seed in SEEDS]
    for seed, row in zip(SEEDS, takes, strict=True):
        own = " | ".join(f"{row['kinds'][speaker]['score']:.2f}" for speaker in SPEAKERS)
        lines.append(f"| {seed} | {_reached(row)} | {row['blind']:.3f} | {row['n']} | {own} |")
    lines += [f"\nMean of {len(SEEDS)} seeds: {mean(row['score'] for row in takes):.3f}.", ""]
    lines += ["## One speaker never heard, takes 0 to 4 of that speaker asked (seed 0)", ""]
    lines += ["| speaker | score | 95 % | n |", "|---|---|---|---|"]
    alone = {speaker: rows[f"{speaker}-seed0"] for speaker in SPEAKERS}
    lines += [f"| {speaker} | {_reached(row)} | {row['n']} |" for speaker, row in alone.items()]
    lines += [f"\nMean of {len(SPEAKERS)} speakers: {mean(row['score'] for row in alone.values()):.3f}.", ""]
    return "\n".join(lines)


def _reached(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['score']:.3f} | {low:.3f}-{high:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """``run`` or ``table``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits", description=__doc__)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MMLLM_TEST_DATA", "data")))
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        run(arguments.data)
    RESULTS.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
