"""Text metrics: one answer becomes a number.

Every metric is a pure function of a prediction and its references with a value in 0..1; the benchmark that uses it
decides what counts as unparsed, and unparsed is wrong, never left out.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, get_args

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.vqa import normalise

AnlsVariant = Literal["strict", "inclusive"]
ANLS_VARIANTS: Final[tuple[AnlsVariant, ...]] = get_args(AnlsVariant)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals an answer after the official VQA normalisation of both, else 0.

    Texts that normalise to nothing ("the", "a") are compared as they are, lower-cased: nothing never equals nothing.
    """
    said = normalise(prediction) or prediction.strip().lower()
    return float(bool(said) and any(said == (normalise(answer) or answer.strip().lower()) for answer in answers))


def edit_distance(one: Sequence[str], two: Sequence[str]) -> int:
    """Levenshtein distance, of texts in characters and of lists in words: insertions, deletions and substitutions cost
    1 each."""
    if len(one) < len(two):
        one, two = two, one
    # one row of the table at a time; `corner` is the number above and to the left
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(two, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def anls(prediction: str, answers: Sequence[str], variant: AnlsVariant = "strict", threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest answer (Biten et al. 2019, arXiv 1907.00490).

    Both sides lower-cased, stripped, runs of white space made one space. Below the threshold the score is 0; a
    similarity of exactly the threshold is 0 under ``strict`` (the paper's rule) and kept under ``inclusive``.
    """
    if variant not in ANLS_VARIANTS:
        raise MmllmError(f"ANLS has no variant {variant!r}; there are strict (the paper's) and inclusive.")
    said = _collapsed(prediction)
    similarity = max((_similarity(said, _collapsed(answer)) for answer in answers), default=0.0)
    kept = similarity > threshold or (variant == "inclusive" and similarity == threshold)
    return similarity if kept else 0.0


def _collapsed(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: str, two: str) -> float:
    longer = max(len(one), len(two))
    return 1.0 - edit_distance(one, two) / longer if longer else 1.0


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = 0.05) -> float:
    """ChartQA's measure (Masry et al. 2022, arXiv 2203.10244): numbers within 5 %, else the same text, 1 or 0.

    A trailing ``%`` divides by 100; a target of 0 and everything ``float`` does not read ("1,000", "$5") is compared
    as text, without regard to case.
    """
    said, wanted = _number(prediction), _number(answer)
    if said is not None and wanted:
        return float(abs(said - wanted) / abs(wanted) <= tolerance)
    return float(prediction.lower() == answer.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1 where an answer stands anywhere in the prediction, else 0 (OCRBench v1; Liu et al. 2023, arXiv 2305.07895).

    Both lower-cased, line breaks made spaces, outer blanks gone. Its trap is kept: "12" stands in "112". An answer that
    is empty stands in nothing.
    """
    said = " ".join(prediction.lower().splitlines()).strip()
    wanted = (" ".join(answer.lower().splitlines()).strip() for answer in answers)
    return float(any(answer != "" and answer in said for answer in wanted))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 of the words in common with an answer (SQuAD; Rajpurkar et al. 2016, arXiv 1606.05250).

    Lower-cased, punctuation and the articles a, an, the taken out. Two texts without words are alike: 1.
    """
    return max((_f1(_words(prediction), _words(answer)) for answer in answers), default=0.0)


def _words(text: str) -> list[str]:
    kept = "".join(" " if sign in string.punctuation else sign for sign in text.lower())
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))
