"""Measurements of the server: ``python -m benchmarks.serve sets [--requests N] [--minutes M] [--rounds N]``.

Writes the figures as JSON and as a page into benchmarks/serve. One thread, CPU time, ways of the same work in turns:
where other processes share the machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

HERE = Path("benchmarks/serve")
TASKS = ("speed", "memory", "campaign")


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("what", choices=["sets"])
    parser.add_argument("--only", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="most that the campaign takes")
    asked = parser.parse_args()
    # before torch is imported, which reads them once
    os.environ.update(
        {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    )

    import torch

    from benchmarks.demo import machine
    from benchmarks.serve.table import write

    torch.set_num_threads(1)
    file = HERE / "sets.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found["machine"] = machine()
    for task in asked.only:
        if task == "speed":
            from benchmarks.serve.sets_speed import speed

            found[task] = [speed(n, asked.rounds) for n in (16, 100)]
        elif task == "memory":
            from benchmarks.serve.sets_memory import memory

            found[task] = memory(100)
        else:
            from benchmarks.serve.sets_campaign import campaign

            found[task] = campaign(asked.requests, 60 * asked.minutes)
        print(json.dumps(found[task]))
        file.write_text(json.dumps(found, indent=1) + "\n")
    write(found, HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
