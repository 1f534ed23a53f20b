"""Word error rate: edits between the words of a transcript and those that were said, under a named normalisation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, Literal, get_args

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.text import edit_distance

Variant = Literal["plain", "whisper_en"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
_TAG = re.compile(r"<\|[^|>]*\|>")


def edits_of(prediction: str, reference: str, variant: str = "plain") -> tuple[int, int]:
    """Insertions, deletions and substitutions of words, and the words of the reference.

    ``plain`` lowers the case, makes every sign but letters, digits and apostrophes a space. ``whisper_en`` is what
    Whisper's results on English are normalised by: numbers, titles, contractions and spelling made alike.

    A reference may have no word left: ``whisper_en`` takes out "uh", and an utterance may be nothing else. Raises
    MmllmError where the package of ``whisper_en`` is not installed.
    """
    normalise = _plain if variant == "plain" else _whisper()
    said, wanted = (normalise(_TAG.sub(" ", text)).split() for text in (prediction, reference))
    return edit_distance(said, wanted), len(wanted)


def word_error_rate(pairs: Iterable[tuple[str, str]], variant: str = "plain") -> float:
    """Edits of all (said, reference) over the words of all references; no mean of sentences, and it may exceed 1."""
    counts = [_counted(said, reference, variant) for said, reference in pairs]
    words = sum(words for _, words in counts)
    if not words:
        raise MmllmError("references without a word have no word error rate")
    return sum(edits for edits, _ in counts) / words


@lru_cache(maxsize=1 << 16)
def _counted(prediction: str, reference: str, variant: str) -> tuple[int, int]:
    # an interval asks for the same transcripts a hundred times
    return edits_of(prediction, reference, variant)


def word_accuracy(prediction: str, reference: str, variant: str = "plain") -> float:
    """1 less the word error rate of one transcript, 0 where it is above 1; of no word 1 where none was said."""
    edits, words = edits_of(prediction, reference, variant)
    return max(0.0, 1.0 - edits / words) if words else float(edits == 0)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower()
    return "".join(sign if sign.isalnum() or sign == "'" else " " for sign in text)


@lru_cache(maxsize=1)
def _whisper() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MmllmError(
            "variant: whisper_en needs the normaliser of Whisper's results: pip install whisper-normalizer, or take "
            "variant: plain"
        ) from error
    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser
