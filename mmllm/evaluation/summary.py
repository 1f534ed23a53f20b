"""From answers to what ``results.json`` says of a benchmark: score, interval, counts, and all this by kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from mmllm.evaluation.benchmarks.base import CATEGORY_SEPARATOR, Answered
from mmllm.evaluation.metrics.intervals import interval
from mmllm.evaluation.metrics.whole import jackknife

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question
    from mmllm.evaluation.predictions import Prediction


def summary(
    benchmark: Benchmark, answered: Sequence[Answered], items: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """Score, n and interval of questions together, and what figures the benchmark has besides.

    The score is the mean over all questions, or over what the benchmark says are its units, or what it makes of all of
    them. ``items``: what each question is about, see :func:`interval`.
    """
    scores = [one.score for one in answered]
    units, whole = benchmark.units(answered), benchmark.whole(answered)
    between: tuple[float, float] | None
    if units is not None:
        score, between = sum(units) / len(units), interval(units)
    elif whole is not None:
        names = [one.question.sample.name for one in answered] if items is None else items
        score, between = whole, jackknife(answered, names, lambda some: benchmark.whole(some) or 0.0)
    else:
        score, between = sum(scores) / len(scores), interval(scores, items)
    figures = dict(benchmark.figures(answered))
    return {
        "score": score,
        "n": len(scores),
        "interval": None if between is None else list(between),
        # beside a score that is none: what runs are compared by
        **({} if units is None and whole is None else {"mean": sum(scores) / len(scores)}),
        **({"figures": figures} if figures else {}),
    }


def answered_of(questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Answered]:
    """Questions with what was said to them."""
    return [Answered(q, one.prediction, one.score) for q, one in zip(questions, predictions, strict=True)]


def counts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Unparsed and failed answers, which are in the denominator of every score."""
    return {
        "unparsed": sum(not prediction.parsed for prediction in predictions),
        "failed": sum(prediction.error is not None for prediction in predictions),
    }


def kinds(
    benchmark: Benchmark,
    seen: Sequence[Answered],
    items: Sequence[Hashable],
    guessed: Sequence[Answered] | None = None,
    ruled: Sequence[Answered] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score, n and interval of each kind, its blind and rule's score; "causal: why" also counts under "causal"."""
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(seen):
        # a set: a kind without parts counts once
        for kind in {one.question.kind, one.question.kind.partition(CATEGORY_SEPARATOR)[0]} - {""}:
            groups.setdefault(kind, []).append(number)

    def part(of: Sequence[Answered] | None, numbers: Sequence[int]) -> float | None:
        return None if of is None else score_of(benchmark, [of[number] for number in numbers])

    return {
        kind: summary(benchmark, [seen[number] for number in numbers], [items[number] for number in numbers])
        | {"blind": part(guessed, numbers), "rule": part(ruled, numbers)}
        for kind, numbers in sorted(groups.items())
    }


def score_of(benchmark: Benchmark, answered: Sequence[Answered]) -> float:
    """The score alone, as :func:`summary` has it."""
    units, whole = benchmark.units(answered), benchmark.whole(answered)
    if whole is not None:
        return whole
    scores = [one.score for one in answered] if units is None else units
    return sum(scores) / len(scores)
