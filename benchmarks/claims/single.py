"""One run: an arm with a seed and a rate is trained, evaluated and measured; its figures go to ``result.json``.

The real path: ``mmllm.training`` trains into a run folder, ``mmllm.checkpoints`` opens it, ``mmllm.evaluation`` asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from benchmarks.claims.data import DATA, digest_of, write_task, write_tuning
from benchmarks.claims.experiment import Arm, Experiment, load, recipe_of
from benchmarks.claims.finished import Finished

if TYPE_CHECKING:
    from torch import Tensor

    from mmllm.model.model import MultimodalLM
    from mmllm.recipe.models import Recipe

RUNS = Path("runs/claims")


@dataclass(frozen=True)
class Job:
    """One run to be made."""

    experiment: str
    arm: str
    seed: int
    rate: float
    starts: tuple[str, ...] = ()
    """Folders of the finished runs it starts from, in the order of ``Arm.start``."""
    more: tuple[str, ...] = ()
    """Further overrides, for trying things."""
    runs: str = str(RUNS)

    @property
    def folder(self) -> Path:
        """Where it is written."""
        return Path(self.runs) / self.experiment / self.arm / f"seed{self.seed}-rate{self.rate:g}"


def data_of(recipe: Recipe, tasks: Sequence[str]) -> list[str]:
    """Tasks of the claims that a recipe trains on or that are asked afterwards."""
    paths = [Path(part.args["path"]) for part in recipe.data.values() if "path" in part.args]
    return sorted({*tasks, *(path.parent.name for path in paths if path.parent.parent == DATA)})


def result_of(job: Job) -> dict[str, Any] | None:
    """The result of a job that was run with the very same recipe, data and start; None where it has to be run."""
    file = job.folder / "result.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    experiment = load(job.experiment)
    recipe = recipe_of(experiment.arms[job.arm], job.seed, job.rate, job.more)
    return found if found["key"] == _key(job, experiment, recipe) else None


def _key(job: Job, experiment: Experiment, recipe: Recipe) -> str:
    """Digest of everything a run depends on but the code; tasks not written yet get a key of their own."""
    from mmllm.recipe.load import digest

    tasks = data_of(recipe, experiment.tasks)
    data = {task: digest_of(task) if (DATA / task / "complete").is_file() else "" for task in tasks}
    starts = [json.loads((Path(start) / "result.json").read_text())["key"] for start in job.starts]
    measures = [one.__qualname__ if isinstance(one, FunctionType) else repr(one) for one in experiment.measures]
    parts = [digest(recipe), data, starts, list(experiment.tasks), measures, experiment.blind]
    parts += [split for split in [_split(job, experiment)] if split != "test"]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _split(job: Job, experiment: Experiment) -> str:
    """Other questions choose the rates than those that the table is made of."""
    return "tuning" if job.seed == experiment.pilot else "test"


def run(job: Job) -> dict[str, Any]:
    """Make one run unless it is there already; what ``result.json`` holds.

    A run that MmllmError ends (the loss became infinite) is a result too, with ``error`` and no metrics.
    """
    done = result_of(job)
    if done is not None:
        return done
    from mmllm.errors import MmllmError

    experiment = load(job.experiment)
    recipe = recipe_of(experiment.arms[job.arm], job.seed, job.rate, job.more)
    for task in data_of(recipe, experiment.tasks):
        write_task(task)
    for task in experiment.tasks:
        write_tuning(task)
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    head = {
        "experiment": job.experiment,
        "arm": job.arm,
        "seed": job.seed,
        "rate": job.rate,
        "key": _key(job, experiment, recipe),
    }
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((job.folder / "log.txt").open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        try:
            found = _figures(job, experiment, recipe)
        except MmllmError as error:
            found = {"metrics": {}, "error": str(error)}
    result = head | found
    new = job.folder / "result.json.new"
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.rename(job.folder / "result.json")
    return result


def _figures(job: Job, experiment: Experiment, recipe: Recipe) -> dict[str, Any]:
    """Train, open, ask, measure."""
    from benchmarks.demo import machine
    from mmllm.checkpoints.load import load_run
    from mmllm.generation.generator import Generator

    clock = [time.monotonic()]
    run_folder, split, starts = job.folder / "run", _split(job, experiment), tuple(map(Path, job.starts))
    n_loaded = _train(recipe, run_folder, experiment.arms[job.arm], job.starts)
    clock.append(time.monotonic())
    recipe, model = load_run(run_folder, "cpu")
    metrics = _scores(Generator(model), recipe, run_folder, experiment, split)
    clock.append(time.monotonic())
    for measure in experiment.measures:
        metrics |= measure(Finished(recipe, run_folder, model, starts, split))
    clock.append(time.monotonic())
    words = ("train", "eval", "measures")
    return {
        "metrics": metrics,
        "trainable": trainable(model, recipe),
        "steps": {name: stage.steps for name, stage in recipe.stages.items()},
        "tokens": {key: entry.n_tokens() for key, entry in model.inputs.items()},
        "loaded": n_loaded,
        "seconds": {word: round(b - a, 1) for word, a, b in zip(words, clock, clock[1:], strict=False)},
        "machine": machine(),
    }


def trainable(model: MultimodalLM, recipe: Recipe) -> int:
    """Parameters that the last stage trains."""
    from mmllm.model.trainable import set_trainable

    rows = set_trainable(model, list(recipe.stages.values())[-1].train)
    model.requires_grad_(False)
    return sum(row.n_trainable for row in rows)


def _train(recipe: Recipe, out: Path, arm: Arm, starts: Sequence[str]) -> int:
    """All stages into ``out``; the number of tensors taken over from other runs."""
    from mmllm.training.run import train

    if not starts:
        train(recipe, out)
        return 0
    from mmllm.training import distributed
    from mmllm.training.announcement import announce
    from mmllm.training.log import Log
    from mmllm.training.run_folder import write_recipe
    from mmllm.training.stage import StageTraining

    tensors = {name: learned(Path(start)) for name, start in zip(arm.start, starts, strict=True)}
    device = distributed.init_distributed()
    out.mkdir(parents=True)
    write_recipe(recipe, out)
    found, n_loaded = None, 0
    with distributed.StopSignals() as stop:
        for name in recipe.stages:
            training = StageTraining(recipe, name, out, device, found)
            if found is None:  # the optimizer of a new stage keeps no copy of the weights: they may change until step 1
                n_loaded = (arm.load or by_name)(training.model, tensors)
            with Log(name, training.n_steps, training.settings.log_every, shown=True) as log:
                announce(training, log)
                found = training.train(stop, log)
            if stop.received:
                raise SystemExit(128 + stop.received)
    return n_loaded


def learned(folder: Path) -> dict[str, Tensor]:
    """Learned tensors at the end of a finished run."""
    from mmllm.checkpoints.load import last_checkpoint, run_recipe
    from mmllm.checkpoints.store import LEARNED, read_tensors

    found, _ = last_checkpoint(folder / "run", run_recipe(folder / "run"))
    assert found is not None, folder
    return read_tensors(found.path / LEARNED)


def by_name(model: MultimodalLM, tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Tensors of the same name are taken over, later runs last. ValueError where no name or a shape fits not."""
    import torch

    from mmllm.model.trainable import skip_if_zero, trainable_state

    own, n_loaded = trainable_state(model), 0
    with torch.no_grad():
        for run_name, found in tensors.items():
            names = own.keys() & found.keys()
            if not names:
                raise ValueError(f"no tensor of {run_name} has a name of this model's")
            for name in names:
                own[name].copy_(found[name])
            n_loaded += len(names)
    skip_if_zero(model)
    return n_loaded


def _scores(generator: Any, recipe: Recipe, out: Path, experiment: Experiment, split: str) -> dict[str, float]:
    """Scores of every task and kind of question."""
    from benchmarks.claims.tasks import benchmark_of
    from mmllm.evaluation.run import evaluate_with

    metrics: dict[str, float] = {}
    for task in experiment.tasks:
        asked = {benchmark_of(task): {"task": task, "split": split}}
        row = evaluate_with(generator, recipe, out, asked, blind=experiment.blind)["benchmarks"][task]
        metrics[task] = row["score"]
        if row["blind"] is not None:
            metrics[f"{task}.blind"] = row["blind"]
        metrics |= {f"{task}.{kind}": found["score"] for kind, found in row["kinds"].items()}
    return metrics
