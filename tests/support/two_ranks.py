"""Runs a module of the tests on two ranks of this machine and reads the JSON line that rank 0 prints."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.places import ROOT
from tests.support.training import start


def two_ranks(module: str, tmp: Path, seconds: float) -> Any:
    """What rank 0 printed last; AssertionError with the ends of both logs unless both ranks end well in time.

    The ranks come from the server that has torch and DeepSpeed loaded, and call the module's ``main``.
    """
    ranks = start(_rank, module, tmp, ranks=2)
    try:
        for rank in ranks:
            rank.join(seconds)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return _found([rank.exitcode for rank in ranks], tmp)


def _rank(module: str, tmp: Path) -> None:
    """One of them: what it writes goes to files."""
    for descriptor, ending in ((1, "out"), (2, "log")):
        with (tmp / f"rank{os.environ['RANK']}.{ending}").open("w") as file:
            os.dup2(file.fileno(), descriptor)
    importlib.import_module(module).main()
    sys.stdout.flush()


def two_new_ranks(module: str, tmp: Path, seconds: float) -> Any:
    """The same with new processes of this environment, for what a process reads once when it starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    with ExitStack() as open_files:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=open_files.enter_context((tmp / f"rank{rank}.out").open("w")),
                stderr=open_files.enter_context((tmp / f"rank{rank}.log").open("w")),
            )
            for rank in range(2)
        ]
        try:
            for rank in ranks:
                rank.wait(timeout=seconds)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    return _found([rank.returncode for rank in ranks], tmp)


def _found(codes: list[int | None], tmp: Path) -> Any:
    errors = "".join((tmp / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
    assert codes == [0, 0], errors
    return json.loads((tmp / "rank0.out").read_text().strip().splitlines()[-1])
