"""Threads of torch on a CPU: as many as there are cores to have.

``launch.py`` sets them before torch is loaded, ``run.py`` keeps their number when a run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

COUNT = "OMP_NUM_THREADS"


def thread_settings(environment: Mapping[str, str], asked: int | None, ranks: int = 1) -> dict[str, str]:
    """What an environment lacks for torch's OpenMP: the recipe's number of threads.

    What the user has set stays, but for the number where the recipe says it. How threads wait is left to the user:
    those of a small model meet at a barrier every few microseconds, and waits that leave the core took twice as long.
    """
    return {COUNT: str(asked) if asked is not None else environment.get(COUNT) or str(max(1, free_cores() // ranks))}


def free_cores() -> int:
    """Cores that this process may run on: a container or `taskset` gives fewer than the machine has."""
    # not less the load: what ran in the last minute would decide hours of training, and the last bits of its losses
    return len(os.sched_getaffinity(0))


def use_threads(asked: int | None, before: int | None) -> None:
    """Give torch the recipe's number of threads, else the one that the run had ``before``.

    Sums split over another number of threads differ in their last bits: the run would not be the one that was stopped.
    """
    import torch

    number = asked or before
    if number is not None and number != torch.get_num_threads():
        torch.set_num_threads(number)
