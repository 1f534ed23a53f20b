"""Two ways of the same work side by side in one process: CPU time, interleaved, results asserted equal.

A row of ``benchmarks/speed/rows`` gives a :class:`Comparison`; ``python -m benchmarks.speed`` measures it.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import psutil


@dataclass(frozen=True)
class Comparison:
    """One row of the table: the same work twice, by what a user would run today and by mmllm."""

    baseline: Callable[[], Any]
    """Does the work once and returns its result."""
    ours: Callable[[], Any]
    """Does the same work once."""
    check: Callable[[Any, Any], None]
    """``check(result of baseline, result of ours)`` raises AssertionError where they differ."""
    what: str
    """The work, as a line of the table."""
    against: str
    """What the baseline is."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Goes into the JSON; ``pad_efficiency`` where the baseline pads."""
    memory: bool = False
    """The ratio is that of the bytes that torch holds at most in one call, not of time."""


def measure(name: str, row: Comparison, rounds: int) -> dict[str, Any]:
    """Run ``row`` once to warm up (memory is measured then), and ``rounds`` times; the figures as JSON values."""
    first, baseline_rss = _peak(row.baseline)
    second, ours_rss = _peak(row.ours)
    row.check(first, second)
    held = [_held(work) for work in (row.baseline, row.ours)] if row.memory else None
    found: list[dict[str, float]] = []
    for number in range(rounds):
        # the order turns: what the first of a pair leaves in the caches would always help the same one
        order = (row.baseline, row.ours) if number % 2 == 0 else (row.ours, row.baseline)
        results, seconds = {}, {}
        for work in order:
            began = cpu_seconds()
            results[work] = work()
            seconds[work] = cpu_seconds() - began
        row.check(results[row.baseline], results[row.ours])
        found.append({"baseline_s": seconds[row.baseline], "ours_s": seconds[row.ours]})
    ratios = [one["baseline_s"] / one["ours_s"] for one in found]
    if held is not None:
        ratios = [held[0] / held[1]]
    return {
        "name": name,
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "baseline_s": median(one["baseline_s"] for one in found),
        "ours_s": median(one["ours_s"] for one in found),
        # by how much the process grew: what torch held, and what the C library's heap could not give back between
        "baseline_rss_mb": baseline_rss,
        "ours_rss_mb": ours_rss,
        **({} if held is None else {"baseline_mb": held[0], "ours_mb": held[1]}),
        "equal": True,  # check raises where it is not
        "pad_efficiency": None,
        **row.facts,
        "n": len(ratios),
        "rounds": found,
        "what": row.what,
        "against": row.against,
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children, the ended ones included: decoders run in one of their own."""
    here = psutil.Process()
    own = here.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in here.children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended since: what it spent is among the children's by the next look
            continue
        total += spent.user + spent.system
    # cpu_times of the process counts in hundredths of a second; its own clock is finer
    return total - own.user - own.system + time.process_time()


def _peak(work: Callable[[], Any]) -> tuple[Any, float]:
    """Result of ``work``, and by how many MB the process grew at most while it ran."""
    work()  # what is made once and kept (buffers of an optimizer, compiled kernels) is no memory of a step
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # 5: the peak starts anew, see proc(5)
    before = status("VmRSS")
    result = work()
    return result, (status("VmHWM") - before) / 2**20


def _held(work: Callable[[], Any]) -> float:
    """MB that torch holds at most in ``work``, beside what it held before: what a GPU would need for it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    assert found.profiler is not None and found.profiler.kineto_results is not None
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    return max(accumulate(one.nbytes() for one in sorted(events, key=lambda one: one.start_ns()))) / 2**20


def status(key: str) -> int:
    """Bytes that /proc/self/status says: VmRSS are in memory now, VmHWM were at most."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
