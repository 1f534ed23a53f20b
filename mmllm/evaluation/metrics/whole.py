"""Figures of many answers together that are no means of their scores, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Answered

MOST_GROUPS = 100
"""Groups of items that are left out in turn; more change the interval little and cost as many evaluations."""
T = TypeVar("T")


def all_right(answered: Sequence[Answered], group: Callable[[Answered], Hashable]) -> list[float]:
    """1 for each group all of whose answers are right, 0 for each other, in the order in which groups begin."""
    found: dict[Hashable, bool] = {}
    for one in answered:
        key = group(one)
        found[key] = found.get(key, True) and one.score == 1.0
    return [float(value) for value in found.values()]


def f1_of_yes(pairs: Sequence[tuple[str | None, str]]) -> dict[str, float]:
    """f1, precision, recall, accuracy and yes_ratio of (said, true) where yes is the positive; None is not yes.

    Without any yes among what was said precision and F1 are 0.
    """
    hits = sum(said == wanted == "yes" for said, wanted in pairs)
    said_yes = sum(said == "yes" for said, _ in pairs)
    true_yes = sum(wanted == "yes" for _, wanted in pairs)
    return {
        "f1": 2 * hits / (said_yes + true_yes) if said_yes + true_yes else 0.0,
        "precision": hits / said_yes if said_yes else 0.0,
        "recall": hits / true_yes if true_yes else 0.0,
        "accuracy": sum(said == wanted for said, wanted in pairs) / len(pairs),
        "yes_ratio": said_yes / len(pairs),
    }


def jackknife(
    values: Sequence[T], items: Sequence[Hashable], whole: Callable[[Sequence[T]], float], level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a smooth figure of all values: groups of items are left out in turn (Kott 2001).

    Items are dealt at random, always from the same seed, into at most 100 groups; Student's quantile with the number of
    groups. None where all values are about one item, which says nothing of others.
    """
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(item, len(numbers)) for item in items])
    count = min(len(numbers), MOST_GROUPS)
    if count < 2:
        return None
    group = np.random.default_rng(0).permutation(len(numbers))[of] % count
    parts: list[list[T]] = [[] for _ in range(count)]
    for value, number in zip(values, group, strict=True):
        parts[number].append(value)
    without = np.array(
        [whole(list(chain.from_iterable(parts[:number] + parts[number + 1 :]))) for number in range(count)]
    )
    from scipy.stats import t  # takes half a second to import

    error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
    half = float(t.ppf((1 + level) / 2, count - 1)) * error
    centre = whole(values)
    return centre - half, centre + half
