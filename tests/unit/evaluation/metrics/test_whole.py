"""Yes and no, word errors, and the interval of figures that are no means."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.intervals import interval
from mmllm.evaluation.metrics.wer import edits_of, word_accuracy, word_error_rate
from mmllm.evaluation.metrics.whole import f1_of_yes, jackknife
from mmllm.evaluation.metrics.yes_no import yes_no


@pytest.mark.parametrize(
    ("text", "stated", "official"),
    [
        ("Yes.", "yes", "yes"),
        ("NO", "no", "yes"),
        ("There is no dog", "no", "no"),
        ("A dog. No cat", "no", "yes"),
        ("know", None, "yes"),
        ("Not sure", None, "yes"),
        ("it is not there", None, "no"),
        ("", None, None),
        ("Yes and no", "yes", "no"),
        ("Neither yes nor no", None, "no"),
    ],
)
def test_yes_and_no_by_two_rules(text: str, stated: str | None, official: str | None) -> None:
    assert yes_no(text) == stated and yes_no(text, "pope_official") == official


def test_f1_without_a_yes_is_0() -> None:
    assert f1_of_yes([(None, "yes"), ("no", "no")]) == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.5, "yes_ratio": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "true", "edits"),
    [
        ("He's here!", "HE\u2019S HERE", (0, 2)),
        ("", "one two three", (3, 3)),
        ("one two three four", "two", (3, 1)),
        ("<|en|>a well-known man", "a well known man", (0, 4)),
        ("a b c d", "a x c", (2, 3)),
    ],
)
def test_edits_of_words(said: str, true: str, edits: tuple[int, int]) -> None:
    assert edits_of(said, true) == edits


def test_a_reference_without_a_word_counts_what_was_put_in() -> None:
    assert edits_of("a", " - ") == (1, 0) and word_accuracy("a", "-") == 0.0 and word_accuracy("", "-") == 1.0
    assert word_error_rate([("a", "-"), ("b c", "b c")]) == 0.5
    with pytest.raises(MmllmError, match="references without a word"):
        word_error_rate([("a", " - ")])


@pytest.mark.skipif(importlib.util.find_spec("whisper_normalizer") is None, reason="no whisper-normalizer")
def test_whispers_normaliser_makes_numbers_titles_and_spelling_alike() -> None:
    said, true = "Mr. Smith has 21 colors, um", "MISTER SMITH HAS TWENTY ONE COLOURS"
    assert edits_of(said, true, "whisper_en") == (0, 5)
    # mr, 21, colors and um stand where mister, twenty, one and colours were said
    assert edits_of(said, true) == (4, 6)


def test_the_jackknife_of_a_mean_is_near_the_interval_of_means() -> None:
    values = np.random.default_rng(1).random(400) < 0.3
    scores = [float(value) for value in values]
    found = jackknife(scores, list(range(400)), lambda some: sum(some) / len(some))
    assert found is not None and found == pytest.approx(interval(scores), abs=0.012)
    assert jackknife(scores, [0] * 400, lambda some: sum(some) / len(some)) is None


def test_the_jackknife_covers_an_f1() -> None:
    draw = np.random.default_rng(2)
    truth, hits, runs = 2 * 0.4 / (0.5 + 0.55), 0, 60  # P(said yes and true) = 0.4, P(true) = 0.5, P(said) = 0.55
    for _ in range(runs):
        kinds = draw.choice(4, size=300, p=[0.4, 0.15, 0.1, 0.35])
        pairs = [(("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"))[kind] for kind in kinds]
        found = jackknife(pairs, list(range(300)), lambda some: f1_of_yes(some)["f1"])
        assert found is not None
        hits += found[0] <= truth <= found[1]
    assert hits / runs >= 0.88  # 0.95 is promised; 60 draws of it are below 0.88 in 1 of 40 cases
