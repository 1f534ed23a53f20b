"""The speed table: ``python -m benchmarks.speed run [NAME ...] [--rounds N]`` measures, ``table`` writes RESULTS.md.

Each row runs in a process of its own with one thread; the figures of every round are in benchmarks/speed/results.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.rows import ROWS

RESULTS = Path("benchmarks/speed/results")


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("task", choices=["run", "row", "table"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; known: {', '.join(ROWS)}")
    if asked.task == "table":
        from benchmarks.speed.table import write

        write(RESULTS)
    for name in (asked.names or list(ROWS)) if asked.task != "table" else []:
        if asked.task == "row":
            _row(name, asked.rounds)
            continue
        # a process each: one row's memory is no part of the next one's, and torch's threads are set at its start
        command = [sys.executable, "-m", "benchmarks.speed", "row", name, "--rounds", str(asked.rounds)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""}, check=True)


def _row(name: str, rounds: int) -> None:
    """Measure one row here and keep its figures."""
    import torch

    from benchmarks.demo import machine
    from benchmarks.speed.measure import measure

    torch.set_num_threads(1)
    module, _, function = ROWS[name].partition(":")
    found = measure(name, getattr(importlib.import_module(module), function)(), rounds)
    found["machine"] = machine()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{name}: {found['ratio']:.2f} ({found['ratio_min']:.2f}-{found['ratio_max']:.2f}), n {found['n']}", flush=True
    )


if __name__ == "__main__":
    main()
