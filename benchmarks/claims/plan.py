"""Which runs an experiment still needs, in what order, and the worker processes that make them.

First the pilot runs of an arm, one per learning rate; the best rate then goes through the seeds. An arm that starts
from another waits for that arm's run of the same seed.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.claims.data import write_task
from benchmarks.claims.experiment import load, recipe_of
from benchmarks.claims.single import RUNS, Job, data_of, result_of, run


@dataclass
class Plan:
    """What is done of the runs and what can be started now; remembers results it has looked up."""

    seeds: tuple[int, ...] | None = None
    """Instead of the experiments' own."""
    runs: str = str(RUNS)
    done: dict[Job, dict[str, Any]] = field(default_factory=dict)

    def result(self, job: Job) -> dict[str, Any] | None:
        """The result of a job, None where it is not run."""
        if job not in self.done:
            found = result_of(job)
            if found is None:
                return None
            self.done[job] = found
        return self.done[job]

    def todo(self, name: str) -> list[Job]:
        """Runs of an experiment that can be made now; none when it is finished."""
        experiment = load(name)
        pairs = [(arm, seed) for seed in self.seeds or experiment.seeds for arm in experiment.arms]
        return list(dict.fromkeys(job for arm, seed in pairs for job in self.needed(name, arm, seed)))

    def needed(self, name: str, arm: str, seed: int, rate: float | None = None) -> list[Job]:
        """Runs that can be made now towards this one; none when it is made."""
        name, arm = origin(name, arm)
        before = [job for start in starts_of(name, arm) for job in self.needed(*start, seed)]
        if before:
            return before
        if rate is None:
            before = self._tuning(name, arm)
            if before:
                return before
        job = self.job(name, arm, seed, rate)
        return [] if self.result(job) is not None else [job]

    def job(self, name: str, arm: str, seed: int, rate: float | None = None) -> Job:
        """The run of an arm and seed, with the tuned rate where none is given; what it waits for must be done."""
        name, arm = origin(name, arm)
        starts = tuple(str(self.job(*start, seed).folder) for start in starts_of(name, arm))
        return Job(name, arm, seed, self.rate(name, arm) if rate is None else rate, starts, runs=self.runs)

    def _tuning(self, name: str, arm: str) -> list[Job]:
        """Pilot runs that are missing for the choice of an arm's rate."""
        experiment, (own, rates) = load(name), _grid(name, arm)
        if len(rates) == 1:
            return []
        return [job for rate in rates for job in self.needed(name, own, experiment.pilot, rate)]

    def pilots(self, name: str, arm: str) -> dict[float, float]:
        """Rate -> mean of the tuning metrics in its pilot run (nan: the run diverged); empty where nothing is tuned."""
        name, arm = origin(name, arm)
        experiment, (own, rates) = load(name), _grid(name, arm)
        chosen_by = experiment.arms[own].tune_on or experiment.tune
        if len(rates) == 1:
            return {}
        found = {}
        for rate in rates:
            result = self.result(self.job(name, own, experiment.pilot, rate))
            assert result is not None, (name, arm, rate)
            metrics = result["metrics"]
            found[rate] = mean(metrics[metric] for metric in chosen_by) if metrics else math.nan
        return found

    def rate(self, name: str, arm: str) -> float:
        """The rate of the best pilot run, the lowest of equal ones; SystemExit where all diverged."""
        name, arm = origin(name, arm)
        _, rates = _grid(name, arm)
        if len(rates) == 1:
            return rates[0]
        scores = {rate: score for rate, score in self.pilots(name, arm).items() if not math.isnan(score)}
        if not scores:
            raise SystemExit(f"{name}/{arm} diverged at every rate of {list(rates)}")
        sign = -1.0 if load(name).tune_lower else 1.0
        return max(sorted(scores), key=lambda rate: sign * scores[rate])


def origin(name: str, arm: str) -> tuple[str, str]:
    """(experiment, arm) whose runs stand for an arm: itself, or the one it is the same as."""
    other, _, own = load(name).arms[arm].same_as.rpartition("/")
    return (other, own) if own else (name, arm)


def starts_of(name: str, arm: str) -> list[tuple[str, str]]:
    """(experiment, arm) of the runs an arm starts from."""
    pairs = [start.rpartition("/") for start in load(name).arms[arm].start]
    return [(experiment or name, other) for experiment, _, other in pairs]


def _grid(name: str, arm: str) -> tuple[str, tuple[float, ...]]:
    """The arm whose pilot runs count for this one, and its rates."""
    experiment = load(name)
    own = experiment.arms[arm].rate_of or arm
    return own, experiment.arms[own].rates or experiment.rates


def _end_with(parent: Any) -> None:
    """Two workers must never make the same run, so none outlives the command that it belongs to."""
    parent.join()
    os._exit(1)


def prepare() -> None:
    """What a worker process does once: load everything heavy, use one thread, and end when its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    import mmllm.evaluation.run
    import mmllm.training.run  # noqa: F401


def execute(names: Sequence[str], jobs: int, seeds: tuple[int, ...] | None = None) -> None:
    """Make every missing run of these experiments with ``jobs`` worker processes; a killed command goes on later."""
    # read by the workers when they import torch; they do one run after another, each with one thread
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in names:
        for task in tasks_of(name):
            write_task(task)
    plan, running = Plan(seeds), dict[Future[dict[str, Any]], Job]()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=prepare) as pool:
        try:
            while True:
                ready = [job for name in names for job in plan.todo(name)]
                for job in dict.fromkeys(ready):
                    if job not in running.values():
                        running[pool.submit(run, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    plan.done[job] = future.result()
                    print(line(job, plan.done[job]), flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def tasks_of(name: str) -> list[str]:
    """Every task that an experiment trains on or asks, those of the arms it starts from included."""
    experiment = load(name)
    found = {task for arm in experiment.arms.values() for task in data_of(recipe_of(arm, 0, 1e-3), experiment.tasks)}
    pairs = [pair for own in experiment.arms for pair in (origin(name, own), *starts_of(name, own))]
    others = {other for other, _ in pairs} - {name}
    return sorted(found.union(*(tasks_of(other) for other in others)))


def line(job: Job, result: dict[str, Any]) -> str:
    """One finished run in one line."""
    head = f"{job.experiment}/{job.arm} seed {job.seed} rate {job.rate:g}: "
    if "error" in result:
        return head + result["error"]
    figures = ", ".join(f"{name} {value:.3f}" for name, value in result["metrics"].items())
    return head + figures + "  " + ", ".join(f"{word} {value:g} s" for word, value in result["seconds"].items())
