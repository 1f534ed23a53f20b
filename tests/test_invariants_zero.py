"""No rank hangs another under ZeRO 0, 2 or 3 when only one of them has media, labels or samples; losses are equal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.zero_rank import CASES, STEPS


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_10_ranks_with_different_kinds_of_batches_finish_with_equal_losses(tmp_path: Path) -> None:
    """Two ranks, four steps: text against media, an empty batch, no labels; every ZeRO stage gives ZeRO 0's losses."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    with ExitStack() as open_files:
        logs = [open_files.enter_context((tmp_path / f"rank{rank}.log").open("w+")) for rank in range(2)]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.zero_rank"],
                cwd=Path(__file__).parent.parent,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=logs[rank],
                text=True,
            )
            for rank in range(2)
        ]
        try:
            outputs = [rank.communicate(timeout=450)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    errors = "".join((tmp_path / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    losses = json.loads(outputs[0].strip().splitlines()[-1])
    assert set(losses) == set(CASES)
    assert len(losses["zero 0"]) == len(STEPS) and losses["zero 0"][-1] < losses["zero 0"][0]
    for name in CASES:
        assert losses[name] == pytest.approx(losses["zero 0"], rel=1e-5), name
