"""Starts a module of the tests once per rank, two ranks on this machine, and reads the JSON line that rank 0 prints."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.places import ROOT


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two_ranks(module: str, tmp: Path, seconds: float) -> Any:
    """What rank 0 printed last; AssertionError with the ends of both logs unless both ranks end well in time."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    with ExitStack() as open_files:
        logs = [open_files.enter_context((tmp / f"rank{rank}.log").open("w+")) for rank in range(2)]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=logs[rank],
                text=True,
            )
            for rank in range(2)
        ]
        try:
            outputs = [rank.communicate(timeout=seconds)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    errors = "".join((tmp / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return json.loads(outputs[0].strip().splitlines()[-1])
