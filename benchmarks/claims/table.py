"""Writes ``RESULTS.md`` from the runs' own JSON: arms, paired differences and what became of each claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.claims.experiment import TABLE, Check, Compare, Experiment, load
from benchmarks.claims.plan import Plan

RESULTS = Path("benchmarks/claims/RESULTS.md")
RULE = (
    "Every difference is paired: the two arms of one seed see the same data in the same order. A claim *holds* where "
    "the mean difference over the seeds is above two standard errors (SD / sqrt n), *does not hold* where it is below "
    "minus two, and is *undecided* between; without any spread the sign alone decides, and no difference at all is "
    "undecided. An allowance is added to the difference first. The learning rate of every arm is chosen from the same "
    "number of points by a pilot run with a seed that is not among the seeds, on held-out questions of its own; a "
    "chosen rate at the end of its grid is "
    "marked \u2020. The parts are miniature (data/mini/RESULTS.md): these tables say whether a direction reproduces, "
    "not how large an effect is at full size. The papers' figures are system comparisons unless said otherwise."
)


def verdict(differences: Sequence[float], margin: float = 0.0) -> tuple[str, float, float]:
    """(holds | does not hold | undecided, mean difference, its standard error) of paired differences."""
    found = [difference for difference in differences if not math.isnan(difference)]
    if len(found) < 2 or len(found) < len(differences):
        return "undecided", mean(found) if found else math.nan, math.nan
    average, error = mean(found), stdev(found) / math.sqrt(len(found))
    # a spread of rounding errors is none
    bound, above = max(2 * error, 1e-12), average + margin
    return "holds" if above > bound else "does not hold" if above < -bound else "undecided", average, error


def _runs(plan: Plan, name: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm -> seed -> result of a finished experiment."""
    experiment = load(name)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in experiment.arms:
        for seed in plan.seeds or experiment.seeds:
            result = plan.result(plan.job(name, arm, seed))
            assert result is not None, (name, arm, seed)
            found.setdefault(arm, {})[seed] = result
    return found


def _figure(values: Sequence[float]) -> str:
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" \u00b1 {stdev(values):.3f}" if len(values) > 1 else "")


def _rate(plan: Plan, name: str, arm: str) -> str:
    rate, rates = plan.rate(name, arm), sorted(plan.pilots(name, arm))
    return f"{rate:g}" + ("\u2020" if rates and rate in (rates[0], rates[-1]) else "")


def _arms(plan: Plan, name: str, runs: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    experiment = load(name)
    # shown per arm only where there is something: blind scores are metrics of their own
    head = ["arm", "what", "trainable", "steps", "tokens per item", "rate", *experiment.metrics]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for arm, by_seed in runs.items():
        first = next((run for run in by_seed.values() if "error" not in run), None)
        figures = [
            _figure([run["metrics"].get(metric, math.nan) for run in by_seed.values()]) for metric in experiment.metrics
        ]
        failed = sum("error" in run for run in by_seed.values())
        note = experiment.arms[arm].note + (f" ({failed} of {len(by_seed)} runs diverged)" if failed else "")
        steps = " + ".join(str(n) for n in first["steps"].values()) if first else "-"
        tokens = ", ".join("varies" if n is None else str(n) for n in first["tokens"].values()) or "0" if first else "-"
        trainable = f"{first['trainable']:,}" if first else "-"
        lines.append(f"| {' | '.join([arm, note, trainable, steps, tokens, _rate(plan, name, arm), *figures])} |")
    return lines


def _by_seed(runs: dict[str, dict[int, dict[str, Any]]], seed: int) -> dict[str, Any]:
    return {arm: by_seed[seed]["metrics"] for arm, by_seed in runs.items()}


def _compared(experiment: Experiment, runs: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """One line per comparison, whatever came out."""
    seeds = list(next(iter(runs.values())))
    lines = ["| comparison | mean difference | SE | n | |", "|---|---|---|---|---|"]
    for one in experiment.comparisons:
        values = [_value(one, _by_seed(runs, seed)) for seed in seeds]
        if isinstance(one, Check):
            answers = ["-" if math.isnan(value) else "yes" if value else "no" for value in values]
            said = "holds" if set(answers) == {"yes"} else "undecided" if "-" in answers else "does not hold"
            lines.append(f"| {one.says} | {', '.join(answers)} | - | {len(seeds)} | *{said}* |")
            continue
        said, average, error = verdict(values, one.margin)
        if one.kind == "report":
            said = {"holds": "above", "does not hold": "below", "undecided": "no clear difference"}[said]
        lines.append(f"| {one.says} | {average:+.3f} | {error:.3f} | {len(seeds)} | *{said}* |")
    return lines


def _value(one: Compare | Check, arms: dict[str, Any]) -> float:
    """The difference (or the answer, 1 or 0) in one seed; nan where a run it needs diverged and has no metrics."""
    try:
        return float(one.value(arms))
    except KeyError:
        if all(arms.values()):
            raise
        return math.nan


def section(plan: Plan, number: str, name: str) -> str:
    """The part of one finished experiment."""
    experiment, runs = load(name), _runs(plan, name)
    seconds = sum(sum(run.get("seconds", {}).values()) for by_seed in runs.values() for run in by_seed.values())
    machines = sorted({run["machine"] for by_seed in runs.values() for run in by_seed.values() if "machine" in run})
    seeds = ", ".join(str(seed) for seed in next(iter(runs.values())))
    tuned = f"rates tuned with seed {experiment.pilot} on {' + '.join(experiment.tune)}"
    if not any(plan.pilots(name, arm) for arm in runs):
        tuned = "one rate for each arm, not tuned"
    lines = [f"## {number}. {experiment.title}", "", experiment.claim, "", *_arms(plan, name, runs), ""]
    if experiment.chance:
        guessed = ", ".join(f"{metric} {value:g}" for metric, value in experiment.chance.items())
        lines += [f"Guessing gives: {guessed}.", ""]
    lines += [*_compared(experiment, runs), ""]
    lines += [f"- Paper: {said}" for said in experiment.paper] + [f"- Tried: {said}" for said in experiment.tried]
    lines += [
        f"- Seeds {seeds}; {tuned}; 200 held-out "
        f"questions per task; {seconds / 60:.0f} min of one core for these runs. {'; '.join(machines)}."
    ]
    return "\n".join(lines)


def write(names: Sequence[str], seeds: tuple[int, ...] | None = None, out: Path | None = RESULTS) -> None:
    """Print the tables of these experiments, unfinished ones named, and write them to ``out`` unless it is None."""
    plan = Plan(seeds)
    parts = ["# The papers' claims in miniature", "", "Written by `python -m benchmarks.claims table`.", "", RULE, ""]
    count = 0
    for name in names:
        count += not load(name).part
        number = f"{count}{load(name).part}"
        missing = len(plan.todo(name))
        if missing:
            parts += [f"## {number}. {load(name).title}", "", f"Not finished: at least {missing} runs to make.", ""]
        else:
            parts += [section(plan, number, name), ""]
    text = "\n".join(parts).rstrip() + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")
    print(text)


def put(names: Sequence[str], seeds: tuple[int, ...] | None = None, out: Path = RESULTS) -> None:
    """Write the sections of these finished experiments into ``out``; the others stay as they were measured.

    For a machine that has not the runs of all. SystemExit where one is not finished.
    """
    plan, text = Plan(seeds), out.read_text(encoding="utf-8").rstrip("\n")
    for name in names:
        missing = len(plan.todo(name))
        if missing:
            raise SystemExit(f"{name} is not finished: at least {missing} runs to make")
        number = number_of(name)
        before, found, rest = text.partition(f"\n## {number}. ")
        behind = rest.partition("\n## ")[1:] if found else ("", "")
        text = f"{before.rstrip()}\n\n{section(plan, number, name)}"
        text += "\n" + "".join(behind) if behind[0] else ""
    out.write_text(text + "\n", encoding="utf-8")


def number_of(name: str) -> str:
    """Number of an experiment's section, with the letter of a further part."""
    before = list(TABLE)[: list(TABLE).index(name) + 1]
    return f"{sum(not load(one).part for one in before)}{load(name).part}"
