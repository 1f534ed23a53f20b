"""A checkpoint that is written while training goes on: what is saved, when it is there, and what a failure costs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.checkpoints import store
from mmllm.checkpoints.saving import Saving
from mmllm.checkpoints.store import LEARNED, Manifest, newest, read_tensors
from mmllm.errors import CheckpointError
from tests.support.training import finish, metrics, start, tiny_recipe, train_here


def _saving(folder: Path, step: int, weight: torch.Tensor) -> Saving:
    head = Manifest(folder.name, step, False, 1, "recipe", {"llm": "digest"})
    return Saving(folder, head, {LEARNED: {"weight": weight}, "state-rank0.json": {"step": step}}, keep=2)


def test_what_was_learned_when_it_began_is_saved_and_is_there_when_it_is_finished(tmp_path: Path) -> None:
    weight = torch.zeros(1000)
    saving = _saving(tmp_path, 1, weight)
    weight.fill_(7.0)  # the next step
    assert newest(tmp_path) == (None, [])
    path = saving.finish()
    assert saving.written
    found, skipped = newest(tmp_path)
    assert found is not None and found.path == path and not skipped
    assert not read_tensors(path / LEARNED)["weight"].any()


def test_a_failure_is_told_when_it_is_finished_and_older_ones_stay(tmp_path: Path) -> None:
    folder, aside = tmp_path / "align", tmp_path / "aside"
    _saving(folder, 1, torch.zeros(3)).finish()
    folder.rename(aside)
    folder.write_text("a file where the folder was")
    saving = _saving(folder, 2, torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"step-2 could not be saved .*older checkpoints are intact"):
        saving.finish()
    folder.unlink()
    found, _ = newest(aside.rename(folder))
    assert found is not None and found.manifest.step == 1


def train_with_slow_disk(recipe: Path, out: Path) -> None:
    """Trains; the files of the stage's second step are written only when its third step is done."""
    from mmllm.training import stage

    events: list[str] = []
    third = threading.Event()
    quick, line = store.write, stage.Metrics.write

    def write(tmp: Path, files: Any) -> store.Written:
        if tmp.name.startswith("step-2.") and tmp.parent.name == "align":
            assert third.wait(60)
        events.append(f"written {tmp.parent.name} {tmp.name.partition('.')[0]}")
        return quick(tmp, files)

    def step(self: stage.Metrics, row: dict[str, Any]) -> None:
        line(self, row)
        events.append(f"step {row['stage']} {row['step']}")
        if row["step"] == 3:
            third.set()

    store.write = write  # type: ignore[assignment]
    stage.Metrics.write = step  # type: ignore[method-assign]
    train_here(recipe, out)
    (out.parent / "events.json").write_text(json.dumps(events))


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert finish(start(train_here, recipe, tmp_path / "whole")) == [0]
    assert finish(start(train_with_slow_disk, recipe, tmp_path / "slow")) == [0]
    events = json.loads((tmp_path / "events.json").read_text())
    assert events.index("step align 3") < events.index("written align step-2") < events.index("written align step-4")
    assert metrics(tmp_path / "slow") == metrics(tmp_path / "whole")
    for name in ("whole", "slow"):
        assert [path.name for path in store.checkpoints(tmp_path / name / "stages" / "align")] == ["step-4", "step-2"]
