"""The commit protocol: a kill, a full disk or a damaged file never costs more than the steps since the last commit."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.store import (
    LEARNED,
    MANIFEST,
    Manifest,
    checkpoints,
    commit,
    newest,
    read_tensors,
    remove_partial,
)
from mmllm.errors import CheckpointError
from tests.support.training import finish, flip, start


def save(folder: Path, step: int, keep: int = 2) -> Path:
    """A checkpoint whose tensor says its step."""
    head = Manifest(folder.name, step, False, 1, "recipe", {"llm": "digest"})
    files = {LEARNED: {"weight": torch.full((40,), float(step))}, "state-rank0.json": {"step": step}}
    return commit(folder, head, files, keep)


def save_and_die(folder: Path, step: int, at: int) -> None:
    """Saves, and is killed just before the ``at``-th call that makes something durable or visible."""
    calls = 0

    def dying(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, call)

    for name in ("fsync", "rename", "replace", "rmdir", "unlink"):
        dying(name)
    save(folder, step)


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    found, skipped = newest(tmp_path)
    assert found is not None and found.path == path and found.manifest.step == 3 and skipped == []
    assert found.manifest.frozen == {"llm": "digest"} and sorted(found.manifest.files) == [LEARNED, "state-rank0.json"]
    assert torch.equal(read_tensors(path / LEARNED)["weight"], torch.full((40,), 3.0))
    assert (tmp_path / "latest").read_text() == "step-3\n"


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 10, 9, 11, 12):
        save(tmp_path, step, keep=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-12", "step-11", "step-9"]


@pytest.mark.slow
def test_a_kill_at_any_point_of_a_save_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    """Killed before every system call that matters: what is found is the old or the new one, whole."""
    found_steps = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        save(folder, 1)
        save(folder, 2)
        code = finish(start(save_and_die, folder, 3, at))[0]
        found, skipped = newest(folder)
        assert found is not None and skipped == [] and code in (0, -signal.SIGKILL)
        assert read_tensors(found.path / LEARNED)["weight"][0] == found.manifest.step
        found_steps.append(found.manifest.step)
        remove_partial(folder)
        save(folder, 4)
        assert [path.name for path in folder.glob("*tmp*")] == []
        assert newest(folder)[0].manifest.step == 4  # type: ignore[union-attr]
        if code == 0:
            break
    assert found_steps == sorted(found_steps) and set(found_steps) == {2, 3}  # old until the rename, then new
    assert len(found_steps) > 12


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: flip(path / LEARNED), "sha256"),
        (lambda path: flip(path / "state-rank0.json"), "sha256"),
        (lambda path: os.truncate(path / LEARNED, 100), "100 bytes"),
        (lambda path: (path / "state-rank0.json").unlink(), "incomplete"),
        (lambda path: (path / MANIFEST).unlink(), "incomplete"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json is damaged: "),
        (lambda path: (path / MANIFEST).write_text('{"files": 3}'), "manifest.json is damaged: "),
        (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json is damaged: it holds no JSON object"),
        (lambda path: shutil.rmtree(path) or path.mkdir(), "incomplete"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, damage: object, said: str) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))  # type: ignore[operator]
    found, skipped = newest(tmp_path)
    assert found is not None and found.manifest.step == 1
    assert len(skipped) == 1 and "step-2" in skipped[0] and said in skipped[0]
    save(tmp_path, 2)  # trained again: takes the damaged one's place
    assert newest(tmp_path)[0].manifest.step == 2 and newest(tmp_path)[1] == []  # type: ignore[union-attr]


def test_a_full_disk_is_an_error_and_the_old_one_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # files of more bytes than this cannot be written
    try:
        with pytest.raises(CheckpointError, match=r"step-2 could not be saved .* make room"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest(tmp_path)[0].manifest.step == 1  # type: ignore[union-attr]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1"]
