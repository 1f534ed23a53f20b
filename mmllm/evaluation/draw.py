"""Which questions of a benchmark are asked where not all are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark


def draw(benchmark: Benchmark, limit: int | None, seed: int | None) -> list[int]:
    """Indices of the questions asked, in order: all, the first ``limit``, or with a ``seed`` so many at random.

    The same seed draws the same ones, and those of a lower limit are among those of a higher one. Where questions are
    scored together (rolls of one, pairs about a picture), whole groups are drawn, as many as the limit holds and at
    least one.
    """
    total = len(benchmark)
    if limit is None or limit >= total:
        return list(range(total))
    if seed is None:
        return list(range(limit))
    order = np.random.default_rng(seed).permutation(total).tolist()
    if benchmark.cluster(benchmark[0]) is None:
        return sorted(order[:limit])
    groups: dict[Hashable, list[int]] = {}
    for index in order:
        groups.setdefault(benchmark.cluster(benchmark[index]), []).append(index)
    chosen: list[int] = []
    for group in groups.values():
        if chosen and len(chosen) + len(group) > limit:
            break
        chosen += group
    return sorted(chosen)
