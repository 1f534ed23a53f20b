"""A run is served by another user than the one that trained it, wherever the umask allows that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.store import LEARNED, Manifest, commit


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask a save runs under."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_of_a_checkpoint_has_the_modes_of_the_umask(umask: int, tmp_path: Path) -> None:
    head = Manifest("align", 1, False, 1, "recipe", {"llm": "digest"})
    saved = commit(tmp_path / "align", head, {LEARNED: {"weight": torch.zeros(2)}, "state-rank0.json": {}}, keep=1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()}
    assert modes == dict.fromkeys([LEARNED, "state-rank0.json", "manifest.json"], 0o666 & ~umask)
