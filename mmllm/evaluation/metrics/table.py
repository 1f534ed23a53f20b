"""Name of a metric -> its function, so that what a benchmark calls its score and what computes it cannot part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from mmllm.evaluation.metrics.fields import VARIANTS as FIELD_VARIANTS
from mmllm.evaluation.metrics.fields import field_f1
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
from mmllm.evaluation.metrics.wer import VARIANTS as WER_VARIANTS
from mmllm.evaluation.metrics.wer import word_accuracy
from mmllm.evaluation.metrics.yes_no import VARIANTS as YES_NO_VARIANTS
from mmllm.evaluation.metrics.yes_no import yes_no

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


def _yes_no(prediction: str, answers: Sequence[str], variant: str) -> float:
    said = yes_no(prediction, variant or "stated")
    return float(said is not None and said in {answer.strip().lower() for answer in answers})


def _wer(prediction: str, answers: Sequence[str], variant: str) -> float:
    return max((word_accuracy(prediction, answer, variant or "plain") for answer in answers), default=0.0)


def _field_f1(prediction: str, answers: Sequence[str], variant: str) -> float:
    return field_f1(prediction, answers, variant or "exact")


FIELD_F1 = "field_f1"
METRICS: dict[str, Metric] = {
    "exact_match": _exact_match,
    "anls": _anls,
    "relaxed_accuracy": _relaxed_accuracy,
    "vqa_accuracy": _vqa_accuracy,
    "contains": _contains,
    "token_f1": _token_f1,
    "yes_no": _yes_no,
    "wer": _wer,
    FIELD_F1: _field_f1,
}

METRIC_VARIANTS: dict[str, Sequence[str]] = {
    "anls": ANLS_VARIANTS,
    "vqa_accuracy": VQA_VARIANTS,
    "yes_no": YES_NO_VARIANTS,
    "yes_no_f1": YES_NO_VARIANTS,
    "mme_score": YES_NO_VARIANTS,
    "wer": WER_VARIANTS,
    FIELD_F1: FIELD_VARIANTS,
}
"""Metric -> the definitions that it has, where there are several."""
