"""The difference of two models on the same questions: its interval, and whether as many were gained as lost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

from mmllm.errors import MmllmError

Scores = Sequence[float]


def difference(
    first: Scores, second: Scores, items: Sequence[Hashable] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of ``second - first`` over questions, and its interval.

    Agresti and Min's (2005) for paired answers: half a question is added to each of the four outcomes, so that it has a
    width where no answer differs. Its variance is multiplied by what the questions about one item have in common (the
    design effect, at least 1). Raises MmllmError where there is no question, or not the same number of each.
    """
    if not first or len(first) != len(second) or (items is not None and len(items) != len(first)):
        raise MmllmError(f"A difference needs two scores a question; there are {len(first)} and {len(second)}.")
    change = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n, mean = len(change), float(change.mean())
    shrunk = float(change.sum()) / (n + 2)
    variance = (float((change**2).sum()) + 1) / (n + 2) - shrunk**2
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance * _design(change, items) / (n + 2))
    return mean, max(-1.0, shrunk - half), min(1.0, shrunk + half)


def _design(change: np.ndarray, items: Sequence[Hashable] | None) -> float:
    """Variance of the mean over items as a multiple of that over independent questions, at least 1."""
    if items is None or len(set(items)) in (1, len(change)):
        return 1.0
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(item, len(numbers)) for item in items])
    rest = change - change.mean()
    alone = float((rest**2).sum())
    together = float((np.bincount(of, weights=rest) ** 2).sum()) * len(numbers) / (len(numbers) - 1)
    return max(1.0, together / alone) if alone > 0 else 1.0


def mcnemar(gained: int, lost: int) -> float:
    """Probability of so uneven a split of ``gained`` and ``lost`` answers by chance: McNemar's exact test, two-sided,
    which is the binomial test of the answers that changed."""
    from scipy.stats import binomtest  # takes half a second to import

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
