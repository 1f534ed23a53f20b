"""The interval of a mean: known values, and coverage on samples whose true mean is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.intervals import interval


def test_right_or_wrong_answers_have_wilsons_interval() -> None:
    for right, n in ((81, 263), (15, 148), (0, 20), (1, 29), (20, 20)):
        wanted = binomtest(right, n).proportion_ci(0.95, "wilson")
        assert interval([1.0] * right + [0.0] * (n - right)) == pytest.approx((wanted.low, wanted.high))


def test_partial_scores_have_the_width_of_their_own_variance() -> None:
    scores = np.random.default_rng(3).choice([0.0, 0.3, 0.6, 0.9, 1.0], size=400)
    low, high = interval(list(scores))
    wide = 2 * 1.96 * scores.std() / np.sqrt(400)
    assert high - low == pytest.approx(wide, rel=0.02) and low < scores.mean() < high


def test_questions_about_one_item_count_as_what_they_are_worth() -> None:
    scores, items = [1.0] * 300 + [0.0] * 100, list(range(400))
    alone = interval(scores, items)
    assert alone == interval(scores)
    # four copies of each answer about one item are worth no more than one
    once = interval(scores[::4])
    copies = interval(list(np.repeat(scores[::4], 4)), list(np.repeat(range(100), 4)))
    assert copies == pytest.approx(once, abs=2e-3) and copies[1] - copies[0] > 1.9 * (alone[1] - alone[0])


def test_what_cannot_have_one_is_refused() -> None:
    with pytest.raises(MmllmError, match="at least one score"):
        interval([])
    with pytest.raises(MmllmError, match="2 scores and 1 items"):
        interval([0.0, 1.0], ["a"])


@pytest.mark.parametrize("mean", [0.5, 0.9, 0.98, 0.99])
@pytest.mark.parametrize(("items", "each", "alike"), [(300, 1, 0.0), (300, 4, 0.3), (300, 4, 0.6)])
def test_it_covers_the_true_mean_as_often_as_it_says(mean: float, items: int, each: int, alike: float) -> None:
    """0.93 to 0.97 of 600 samples, up to what chance moves 600 draws (three standard errors: 0.027)."""
    random = np.random.default_rng([items, each, int(1000 * mean)])
    labels = [item for item in range(items) for _ in range(each)]
    covered = 0
    for _ in range(600):
        # scores of one item correlate by ``alike``: its own mean is drawn from a Beta
        spread = (1 - alike) / alike if alike else 0.0
        means = random.beta(mean * spread, (1 - mean) * spread, items) if alike else np.full(items, mean)
        scores = (random.random((items, each)) < means[:, None]).astype(float)
        low, high = interval(scores.ravel(), labels)  # type: ignore[arg-type]
        covered += low <= mean <= high
    assert 0.93 - 0.027 <= covered / 600 <= 0.97 + 0.027
