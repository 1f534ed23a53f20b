"""The interval of a mean score: Wilson's, with as many questions as the scores are worth.

The percentile bootstrap is too narrow near 1, where many samples have no miss. Where questions share an item their
scores are not independent; the variance between items says how many independent questions they are worth (the design
effect; Kish 1965), and Wilson's interval (1927) is taken with that number. How often it covers is tested.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

from mmllm.errors import MmllmError

LEAST_FREEDOM = 8
"""Fewest degrees of freedom of the variance between items, where there are as many."""


def interval(
    scores: Sequence[float], items: Sequence[Hashable] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of scores in 0..1.

    Args:
        scores: one a question.
        items: what each question is about; those about one item are not independent. None: each about its own.
        level: share of samples whose interval is to hold the true mean.

    Raises MmllmError where there is no score, or not one item for each.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise MmllmError("An interval needs at least one score and was given none.")
    if items is not None and len(items) != len(values):
        raise MmllmError(f"An interval needs one item a score; there are {len(values)} scores and {len(items)} items.")
    mean = float(values.mean())
    sums, counts = _by_item(values, items)
    alone, binary = len(sums) == len(values), bool(np.isin(values, (0.0, 1.0)).all())
    z = NormalDist().inv_cdf((1 + level) / 2)
    worth = float(len(values))
    if not (alone and binary):
        worth = _worth(mean, sums, counts)
        if binary:  # more than there are would be chance: a sample without a miss has no variance
            worth = min(worth, float(len(values)))
    if not alone and len(sums) > 1:
        from scipy.stats import t  # takes half a second to import

        # few items, or few that differ from the rest, know their variance badly: Student's quantile
        worth *= (z / float(t.ppf((1 + level) / 2, _freedom(sums - mean * counts)))) ** 2
    return _wilson(mean, worth, z)


def _by_item(values: np.ndarray, items: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the scores of each item, and their number."""
    if items is None:
        return values, np.ones_like(values)
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(item, len(numbers)) for item in items])
    return np.bincount(of, weights=values), np.bincount(of).astype(np.float64)


def _worth(mean: float, sums: np.ndarray, counts: np.ndarray) -> float:
    """Of how many independent right or wrong answers the mean would have the variance that it has over items."""
    n = len(sums)
    if n < 2:
        return 1.0
    variance = n / (n - 1) * float(((sums - mean * counts) ** 2).sum()) / float(counts.sum()) ** 2
    # without any variance each item counts once
    return mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else float(n)


def _freedom(rest: np.ndarray) -> float:
    """Degrees of freedom of the variance between items, by Satterthwaite (1946) from the spread of their squares.

    Where one item in a hundred has a miss, 300 items know the variance no better than some ten would. Below
    ``LEAST_FREEDOM`` the spread itself is not known.
    """
    n, second = len(rest), float((rest**2).mean())
    if second == 0:
        return n - 1
    excess = float((rest**4).mean()) / second**2 - (n - 3) / (n - 1)
    return float(min(n - 1, max(min(LEAST_FREEDOM, n - 1), 2 * n / max(excess, 1e-9))))


def _wilson(mean: float, n: float, z: float) -> tuple[float, float]:
    square = z * z / n
    centre = (mean + square / 2) / (1 + square)
    half = z * math.sqrt(mean * (1 - mean) / n + square / (4 * n)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
