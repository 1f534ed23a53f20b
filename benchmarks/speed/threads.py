"""What waiting threads cost: steps of a small model on every core, waits that spin beside waits that leave the core.

    python -m benchmarks.speed.threads [--busy N] [--rounds R]

Each measurement is a process of its own, since OpenMP reads its settings when it is loaded; they take turns. ``--busy``
programs that only count run beside them. Prints steps a second: median, lowest, highest, and the load before it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median

STEP = """
import time, torch
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
model, x = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(4, 128, 256)
def step():
    model(x).square().mean().backward()
for _ in range(3):
    step()
began, n = time.perf_counter(), 0
while time.perf_counter() - began < 3:
    step()
    n += 1
print(n / (time.perf_counter() - began))
"""
WAYS = {"spinning": {}, "leaving the core": {"OMP_WAIT_POLICY": "PASSIVE"}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        for _ in range(asked.busy):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        for number in range(asked.rounds):
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                environment = {**plain, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), **WAYS[way]}
                command = [sys.executable, "-c", STEP]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                found[way].append(float(done.stdout))
    for way, rates in found.items():
        print(f"{way}: {median(rates):.1f} steps/s ({min(rates):.1f}-{max(rates):.1f}), load {load:.1f}")


if __name__ == "__main__":
    main()
