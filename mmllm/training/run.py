"""Trains a recipe: its stages in order, each from the last one's weights, from where an interrupted run stopped.

``mmllm train`` calls ``train`` in its own process for one rank; DeepSpeed's launcher runs this module once per rank.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from mmllm.checkpoints.code_trust import FILE as SIGNED
from mmllm.checkpoints.digest_cache import FILE as DIGESTS
from mmllm.checkpoints.load import last_checkpoint
from mmllm.checkpoints.store import VerifiedCheckpoint, all_gather, checkpoints, rank, remove_partial
from mmllm.errors import MmllmError, RecipeError
from mmllm.recipe.load import load_recipe
from mmllm.recipe.located import ORIGIN
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import IMPORTED
from mmllm.training import distributed
from mmllm.training.announcement import announce
from mmllm.training.log import Log
from mmllm.training.run_folder import Metrics, compare_recipe, locked, write_recipe
from mmllm.training.stage import StageTraining
from mmllm.training.threads import use_threads


def train(recipe: Recipe, out: Path, *, accept: bool = False, verify: bool = False) -> None:
    """All stages of ``recipe`` into the run folder ``out``; goes on where an earlier call was stopped, even by a kill.

    A finished run whose recipe got further stages goes on with those. ``accept``: go on where data, tokenizer, chat
    template or preprocessing have changed since the run began, and write that down in its checkpoints. ``verify``: hash
    frozen weights and data anew, even where their files have not changed.

    SIGTERM and Ctrl-C let the step finish and save, then raise SystemExit with 128 + the signal's number. Raises
    RecipeError if ``out`` was started with another recipe, CheckpointError if another process trains into it.
    """
    if not recipe.stages:
        raise RecipeError(f"the recipe {recipe.name} has no stages: nothing to train; add data and stages to it")
    device = distributed.init_distributed()
    recipe = distributed.resolved(recipe)
    with ExitStack() as stack:
        stop = stack.enter_context(distributed.StopSignals())
        # only rank 0 holds the lock, but every rank learns whether it was free
        made = not os.path.exists(out)  # one that may not be entered is said below
        distributed.on_rank0(lambda: stack.enter_context(locked(out)))
        start = distributed.on_rank0(lambda: _resume_point(recipe, out))
        names = list(recipe.stages)
        left = names[_first(names, start) :]
        if device.type == "cpu":
            use_threads(recipe.threads, None if start is None else start.manifest.threads)
        if not left:
            distributed.on_rank0(lambda: write_recipe(recipe, out))
        for number, name in enumerate(left):
            try:
                training = StageTraining(recipe, name, out, device, start, accept=accept, verify=verify)
            except MmllmError:
                if made and not number and rank() == 0:
                    _unmake(out)
                raise
            if not number:
                distributed.on_rank0(lambda: write_recipe(recipe, out))
            start = _train_stage(training, stop)
            # its model goes before the next stage loads its own: hooks make circles of modules and engine
            del training
            gc.collect()
        if rank() == 0:
            Console(highlight=False).print(f"all stages are trained: {out}", markup=False, soft_wrap=True)


def _train_stage(training: StageTraining, stop: distributed.StopSignals) -> VerifiedCheckpoint:
    """The stage's last checkpoint; SystemExit where a signal stopped it before."""
    before = list(training.recipe.stages)[: training.number]
    distributed.on_rank0(lambda: Metrics(training.out).rewind(before, training.name, training.done))
    with Log(training.name, training.n_steps, training.settings.log_every, shown=rank() == 0) as log:
        announce(training, log)
        try:
            saved = training.train(stop, log)
        finally:  # also what a stage that stops with an error has computed
            training.keep_features()
        # asked of all ranks: a signal during the last save reaches some of them, and all have to end here
        received = max(all_gather(stop.received))
        if not saved.manifest.final or received:
            log.say(f"stopped after step {training.done} of stage {training.name}; the same command goes on from there")
            raise SystemExit(128 + (received or signal.SIGTERM))
    return saved


def _resume_point(recipe: Recipe, out: Path) -> VerifiedCheckpoint | None:
    """The newest checkpoint of the latest stage that has one; says what it skipped and removes unfinished saves.

    RecipeError where the run holds checkpoints of another recipe.
    """
    known = load_recipe(out / "recipe.yaml") if (out / "recipe.yaml").is_file() else recipe
    for folder in (out, *(out / "stages" / name for name in known.stages)):
        remove_partial(folder)
    # of the recipe that the run holds: in this one its stages may be called otherwise
    found, skipped = last_checkpoint(out, known)
    for sentence in skipped:
        print(sentence, file=sys.stderr)
    if found is None:
        compare_recipe(recipe, out, _damaged_stage(out, known))
    else:
        compare_recipe(recipe, out, found.manifest.stage, found.manifest.shaping)
    return found


def _damaged_stage(out: Path, recipe: Recipe) -> str | None:
    """The last stage that has checkpoints, none of which can be used: they still belong to their recipe."""
    return next((name for name in reversed(list(recipe.stages)) if checkpoints(out / "stages" / name)), None)


def _unmake(out: Path) -> None:
    """Remove a run folder that was made for a training that could not start, so that nothing keeps its recipe."""
    if {entry.name for entry in out.iterdir()} <= {"lock", "recipe.yaml", ORIGIN, SIGNED, DIGESTS}:
        shutil.rmtree(out)


def _first(names: list[str], start: VerifiedCheckpoint | None) -> int:
    """Number of the first stage that is not finished."""
    if start is None or start.manifest.stage == IMPORTED:
        return 0
    return names.index(start.manifest.stage) + int(start.manifest.final)


def main(arguments: list[str] | None = None) -> int:
    """One rank's process; 2 after a MmllmError, whose sentence rank 0 prints."""
    parser = argparse.ArgumentParser(prog="mmllm.training.run", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--accept", choices=["changed"])
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    distributed.follow_launcher()
    try:
        recipe = load_recipe(options.recipe, options.overrides)
        train(recipe, options.out, accept=options.accept is not None, verify=options.verify)
    except MmllmError as error:
        if rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
