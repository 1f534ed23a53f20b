"""Name of a metric -> its function, so that what a benchmark calls its score and what computes it cannot part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from mmllm.evaluation.metrics.text import (
    ANLS_VARIANTS,
    AnlsVariant,
    anls,
    contains,
    exact_match,
    relaxed_accuracy,
    token_f1,
)
from mmllm.evaluation.metrics.vqa import VARIANTS as VQA_VARIANTS
from mmllm.evaluation.metrics.vqa import Variant, vqa_accuracy

Metric = Callable[[str, Any, str], float]
"""(prediction, reference, variant or empty) -> a value in 0..1."""


def _exact_match(prediction: str, answers: Sequence[str], variant: str) -> float:
    return exact_match(prediction, answers)


def _anls(prediction: str, answers: Sequence[str], variant: str) -> float:
    return anls(prediction, answers, cast(AnlsVariant, variant or "strict"))


def _relaxed_accuracy(prediction: str, answers: Sequence[str], variant: str) -> float:
    return max((relaxed_accuracy(prediction.strip(), answer) for answer in answers), default=0.0)


def _vqa_accuracy(prediction: str, answers: Sequence[str], variant: str) -> float:
    return vqa_accuracy(prediction, answers, cast(Variant, variant or "vqa_official_2021"))


def _contains(prediction: str, answers: Sequence[str], variant: str) -> float:
    return contains(prediction, answers)


def _token_f1(prediction: str, answers: Sequence[str], variant: str) -> float:
    return token_f1(prediction, answers)


METRICS: dict[str, Metric] = {
    "exact_match": _exact_match,
    "anls": _anls,
    "relaxed_accuracy": _relaxed_accuracy,
    "vqa_accuracy": _vqa_accuracy,
    "contains": _contains,
    "token_f1": _token_f1,
}

METRIC_VARIANTS: dict[str, Sequence[str]] = {"anls": ANLS_VARIANTS, "vqa_accuracy": VQA_VARIANTS}
"""Metric -> the definitions that it has, where there are several."""
