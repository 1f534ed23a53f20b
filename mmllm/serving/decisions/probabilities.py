"""Probabilities of the answers to a question, from how likely the model finds each as the whole of what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmllm.serving.requests.decisions import ChoiceQuestion, Predicate, Question


def log_weights(logprobs: Sequence[Sequence[float]]) -> list[float]:
    """Return of each option the logarithm of how likely it is to be said, in any of its texts.

    ``logprobs``: of each text of an option the log-probability of saying it and then ending the turn. The end belongs
    to it, so that an option that begins another one is not counted for both, and lengths need no correction. What
    becomes of them: :class:`~mmllm.serving.decisions.calibration.Scale`.
    """
    return [max(one) + math.log(math.fsum(math.exp(text - max(one)) for text in one)) for one in logprobs]


def answer_of(question: Question, found: Sequence[float]) -> dict[str, Any]:
    """Return the answer in OpenAI's form, given the probability of each option."""
    head = {"type": question.type, "name": question.name}
    if isinstance(question, Predicate):
        return {**head, "probability": found[0]}
    if isinstance(question, ChoiceQuestion):
        pairs = list(zip(question.choices, found, strict=True))
        # of two that are equally likely the one whose text comes first, whatever the order
        best = min(pairs, key=lambda pair: (-pair[1], pair[0].text))
        listed = [{"value": choice.value, "probability": probability} for choice, probability in pairs]
        return {**head, "choice": best[0].value, "confidence": best[1], "probabilities": listed}
    levels = [
        {"label": level.label, "value": number, "probability": probability}
        for number, (level, probability) in enumerate(zip(question.levels, found, strict=True))
    ]
    score = math.fsum(number * probability for number, probability in enumerate(found))
    return {**head, "score": score, "confidence": max(found), "probabilities": levels}
