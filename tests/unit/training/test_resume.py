"""Interrupted and resumed equals uninterrupted, bit for bit: killed at random steps, in saves, by signal."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.checkpoints.store import LEARNED, newest, read_tensors
from tests.support.training import STAGES, finish, metrics, sharing, start, tiny_recipe, train_and_die, train_here

pytestmark = pytest.mark.slow

SLOW = 0.05  # seconds added to a step of a run that is to be killed, so that the kill comes before the next one


def train_slowly(recipe: Path, out: Path, overrides: Sequence[str]) -> None:
    """Trains with steps long enough to be killed in between."""
    from mmllm.training import stage

    quick = stage.Metrics.write

    def write(self: stage.Metrics, row: dict[str, Any]) -> None:
        quick(self, row)
        time.sleep(SLOW)

    stage.Metrics.write = write  # type: ignore[method-assign]
    train_here(recipe, out, overrides)


def train_and_hear_in_last_save(recipe: Path, out: Path) -> None:
    """Trains; one rank alone gets SIGTERM while the last checkpoint of the first stage is written."""
    from mmllm.checkpoints.store import rank
    from mmllm.training import stage

    real = stage.commit

    def heard(folder: Path, head: Any, files: Any, keep: int) -> Path:
        path = real(folder, head, files, keep)
        if head.final and head.stage == "align" and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return path

    stage.commit = heard
    train_here(recipe, out)


def _lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def _wait_for(out: Path, lines: int, processes: Sequence[BaseProcess]) -> None:
    """Until that many steps are done, or the processes are."""
    while _lines(out) < lines and any(process.is_alive() for process in processes):
        time.sleep(0.005)


def _assert_equal(out: Path, reference: Path) -> None:
    assert metrics(out) == metrics(reference)
    for stage in STAGES:
        found, expected = newest(out / "stages" / stage)[0], newest(reference / "stages" / stage)[0]
        assert found is not None and expected is not None
        assert found.manifest.step == expected.manifest.step and found.manifest.final
        for name in expected.manifest.files:
            if name.endswith(".json"):
                assert (found.path / name).read_text() == (expected.path / name).read_text()
                continue
            one, other = read_tensors(found.path / name), read_tensors(expected.path / name)
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in other), name
        assert LEARNED in expected.manifest.files


# (name, ranks, overrides): single-conversation micro-batches accumulate, batch 8 and epochs make a shorter last step
EPOCHS = ("stages.align.steps=null", "stages.align.epochs=2.5", "stages.align.batch=8", "stages.align.save_every=1")
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "1 rank": (1, (*EPOCHS, "stages.align.zero=1", "stages.instruct.micro_batch=1")),
    "2 ranks, ZeRO 0 and 1": (2, ("stages.align.micro_batch=1", "stages.instruct.zero=1", "stages.instruct.tokens=70")),
    "2 ranks, ZeRO 2 and 3": (2, (*EPOCHS, "stages.align.zero=2", "stages.instruct.zero=3")),
}


@pytest.mark.parametrize("case", CASES)
def test_kills_at_random_steps_in_both_stages(case: str, tmp_path: Path) -> None:
    """Killed at a random step of each stage (on 2 ranks: one of them first); the last run ends."""
    ranks, overrides = CASES[case]
    recipe, chance = tiny_recipe(tmp_path), random.Random(case)
    # on one rank in one stage, on two in both: the order of samples is then another than without
    overrides = (*overrides, *sharing(tmp_path, *list(STAGES)[:ranks]))
    assert finish(start(train_here, recipe, tmp_path / "whole", overrides, ranks=ranks)) == [0] * ranks
    out, total = tmp_path / "killed", _lines(tmp_path / "whole")
    kills = [chance.randint(1, total - 5), chance.randint(total - 3, total - 1)]
    for step in kills:
        processes = start(train_slowly, recipe, out, overrides, ranks=ranks)
        _wait_for(out, step, processes)
        processes[chance.randrange(ranks)].kill()
        time.sleep(SLOW)
        for process in processes:  # what the launcher does to the ranks that wait for the killed one
            process.kill()
        assert 0 not in finish(processes)
    assert finish(start(train_here, recipe, out, overrides, ranks=ranks)) == [0] * ranks
    _assert_equal(out, tmp_path / "whole")


def test_kills_inside_saves(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert finish(start(train_here, recipe, tmp_path / "whole")) == [0]
    out = tmp_path / "killed"
    for at in (1, 4, 9, 14, 7, 12):
        finish(start(train_and_die, recipe, out, (), at))
    assert finish(start(train_here, recipe, out)) == [0]
    _assert_equal(out, tmp_path / "whole")
    assert list(out.rglob("*.tmp-*")) == []


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    ranks = 2
    recipe, out = tiny_recipe(tmp_path, save_every=100), tmp_path / "stopped"
    assert finish(start(train_here, recipe, tmp_path / "whole", ranks=ranks)) == [0] * ranks
    for step in (1, 6):
        processes = start(train_slowly, recipe, out, (), ranks=ranks)
        _wait_for(out, step, processes)
        os.kill(processes[-1].pid or 0, signal.SIGTERM)  # one rank hears it, all stop at the same step
        assert finish(processes) == [128 + signal.SIGTERM] * ranks
        stage = list(STAGES)[step // 5]
        found, _ = newest(out / "stages" / stage)
        assert found is not None and not found.manifest.final
        assert found.manifest.step == metrics(out)[-1]["step"]
    assert finish(start(train_here, recipe, out, ranks=ranks)) == [0] * ranks
    _assert_equal(out, tmp_path / "whole")


def test_a_signal_to_one_rank_in_a_stages_last_save_ends_all_alike(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path), tmp_path / "stopped"
    assert finish(start(train_here, recipe, tmp_path / "whole", ranks=2)) == [0, 0]
    assert finish(start(train_and_hear_in_last_save, recipe, out, ranks=2)) == [128 + signal.SIGTERM] * 2
    assert [row["stage"] for row in metrics(out)] == ["align"] * 4
    assert finish(start(train_here, recipe, out, ranks=2)) == [0, 0]
    _assert_equal(out, tmp_path / "whole")


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path, save_every=1), tmp_path / "run"
    assert finish(start(train_here, recipe, tmp_path / "whole")) == [0]
    processes = start(train_slowly, recipe, out, ())
    _wait_for(out, 7, processes)
    processes[0].kill()
    finish(processes)
    newest_path = max((out / "stages" / "instruct").glob("step-?"))
    content = bytearray((newest_path / "optimizer-rank0.safetensors").read_bytes())
    content[-1] ^= 1
    (newest_path / "optimizer-rank0.safetensors").write_bytes(content)
    assert finish(start(train_here, recipe, out)) == [0]
    _assert_equal(out, tmp_path / "whole")
