"""Measurements of the server, each a command: ``python -m benchmarks.serve WHAT``.

- ``sets [--only speed memory campaign] [--rounds N] [--requests N] [--minutes M]``: many sets in one server
- ``traffic [--clients 64] [--minutes 30]``: many clients for a long time
- ``fuzz``: 500 bodies and 100 files that are wrong
- ``load --url URL [--key KEY] [--clients 8] [--minutes 1]``: how much a running server takes; writes nothing

The others write the figures as JSON and as a page into benchmarks/serve. One thread, CPU time, ways of the same work in
turns: where other processes share the machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

HERE = Path("benchmarks/serve")
SETS = ("speed", "memory", "campaign")


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    sets = commands.add_parser("sets")
    sets.add_argument("--only", choices=SETS, nargs="+", default=SETS)
    sets.add_argument("--rounds", type=int, default=5)
    sets.add_argument("--requests", type=int, default=10_000)
    sets.add_argument("--minutes", type=float, default=60.0, help="most that the campaign takes")
    traffic = commands.add_parser("traffic")
    traffic.add_argument("--clients", type=int, default=64)
    traffic.add_argument("--minutes", type=float, default=30.0)
    commands.add_parser("fuzz")
    load = commands.add_parser("load")
    load.add_argument("--url", default="http://127.0.0.1:8000", help="of the server, without /v1")
    load.add_argument("--key", help="default: MMLLM_KEY of the environment, or none")
    load.add_argument("--model", help="default: the first that the server offers")
    load.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    load.add_argument("--minutes", type=float, default=1.0, help="for each number of clients")
    load.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    load.add_argument("--picture", type=Path, help="shown with every question")
    asked = parser.parse_args()
    if asked.what == "load":
        from benchmarks.serve.load import load as measure

        key = asked.key or os.environ.get("MMLLM_KEY")
        measure(asked.url, key, asked.model, asked.clients, 60 * asked.minutes, asked.tokens, asked.picture)
        return
    # before torch is imported, which reads them once
    os.environ.update(
        {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    )
    import torch

    from benchmarks.demo import machine
    from benchmarks.serve.table import write

    torch.set_num_threads(1)
    file = HERE / "results.json"
    for task in asked.only if asked.what == "sets" else [asked.what]:
        measured = _measure(task, asked)
        print(json.dumps(measured))
        # read when it is written: another of these commands may have ended meanwhile
        found = json.loads(file.read_text()) if file.exists() else {}
        found |= {"machine": machine(), task: measured}
        file.write_text(json.dumps(found, indent=1) + "\n")
        write(found, HERE / "RESULTS.md")


def _measure(task: str, asked: argparse.Namespace) -> Any:
    """The figures of one task."""
    if task == "speed":
        from benchmarks.serve.sets_speed import speed

        return [speed(n, asked.rounds) for n in (16, 100)]
    if task == "memory":
        from benchmarks.serve.sets_memory import memory

        return memory(100)
    if task == "campaign":
        from benchmarks.serve.sets_campaign import campaign

        return campaign(asked.requests, 60 * asked.minutes)
    if task == "traffic":
        from benchmarks.serve.traffic import traffic

        return traffic(asked.clients, asked.minutes)
    from benchmarks.serve.fuzz import fuzz

    return fuzz()


if __name__ == "__main__":
    main()
