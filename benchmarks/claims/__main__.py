"""Command line of the claims: ``python -m benchmarks.claims run NAME... | all | table | pilot NAME ARM | data``."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from benchmarks.claims import plan, table
from benchmarks.claims.data import write_task
from benchmarks.claims.experiment import TABLE, written
from benchmarks.claims.lessons import MAKERS
from benchmarks.claims.single import run


def _names(given: Sequence[str]) -> list[str]:
    """Experiments named; ``all`` or none means every one there is."""
    if given and list(given) != ["all"]:
        return list(given)
    missing = [name for name in TABLE if name not in written()]
    if missing:
        print(f"not written yet: {', '.join(missing)}")
    return written()


def _pilot(name: str, arm: str, rate: float, seed: int, more: Sequence[str]) -> None:
    """One run aside from the experiment's own, always anew, with its course of the loss; first what it starts from."""
    for task in plan.tasks_of(name):
        write_task(task)
    plan.prepare()
    asked = plan.Plan()
    for start in plan.starts_of(name, arm):
        while before := asked.needed(*start, seed):
            print(plan.line(before[0], run(before[0])), flush=True)
    job = replace(asked.job(name, arm, seed, rate), more=tuple(more), runs="runs/claims/pilot")
    shutil.rmtree(job.folder, ignore_errors=True)
    began = time.process_time()
    result = run(job)
    print(plan.line(job, result), f"({time.process_time() - began:.1f} s of processor time)")
    lines = (job.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        losses = [row["loss"] for row in rows if row["stage"] == stage]
        size = max(1, len(losses) // 10)
        course = [f"{start + size}: {mean(losses[start : start + size]):.3f}" for start in range(0, len(losses), size)]
        print(f"{stage:10} loss  {'  '.join(course)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run, pilot, write data or the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("run", "table"):
        one = actions.add_parser(action)
        one.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(TABLE)}; all or none: every one")
        one.add_argument("--seeds", nargs="+", type=int, help="instead of each experiment's own")
        if action == "table":
            one.add_argument("--put", action="store_true", help="write these sections, leave the others as they are")
        if action == "run":
            one.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each")
    pilot = actions.add_parser("pilot", help="one run of one arm, aside from the experiment's own")
    pilot.add_argument("name")
    pilot.add_argument("arm")
    pilot.add_argument("--rate", "--lr", type=float, required=True)
    pilot.add_argument("--seed", type=int, default=99)
    pilot.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="further changes of the recipe")
    data = actions.add_parser("data", help="write the tasks' data (runs do it themselves)")
    data.add_argument("tasks", nargs="*", default=list(MAKERS))
    given = parser.parse_args(argv)
    if given.action == "data":
        for task in given.tasks:
            print(write_task(task))
    elif given.action == "pilot":
        _pilot(given.name, given.arm, given.rate, given.seed, given.set)
    else:
        seeds = tuple(given.seeds) if given.seeds else None
        if given.action == "run":
            plan.execute(_names(given.names), given.jobs, seeds)
        if given.action == "table" and given.put:
            return table.put(_names(given.names), seeds)
        every = given.names in ([], ["all"])
        table.write(_names(given.names), seeds, table.RESULTS if every else None)


if __name__ == "__main__":
    main()
