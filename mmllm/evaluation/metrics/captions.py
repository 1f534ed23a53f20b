"""Captions: corpus BLEU (Papineni et al. 2002) and CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726), as COCO counts.

Both depend on how texts are cut into words. COCO's scorer runs Stanford's PTB tokenizer and takes punctuation out;
:func:`words_of` follows the rules of the Penn Treebank that captions meet, without Java. The two differ on rare signs
such as ``rock'n'roll``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LONGEST = 4
"""Words of the longest n-gram of both metrics."""
SIGMA = 6.0
"""Spread, in words, of CIDEr-D's penalty on captions that are longer or shorter than a reference."""
_TINY, _SMALL = 1e-15, 1e-9
"""COCO's scorer adds these to matches and to guesses, so that a corpus without a match has a BLEU."""

Grams = Counter[tuple[str, ...]]

_CLITIC = re.compile(r"(n't|'s|'m|'d|'re|'ve|'ll)$")
_WORD = re.compile(
    r"-[lr]rb-|(?:[a-z]\.)+|(?:etc|mr|mrs|ms|dr|st|jr|sr|vs|prof)\.|[^\W_]+(?:[-/.,:&'][^\W_]+)*'?|[$%#@&]",
    re.UNICODE,
)
_JOINED = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")}
"""Words that the treebank writes as two."""


def words_of(text: str) -> list[str]:
    """Lower-case words of a caption, punctuation taken out, ``don't`` as ``do n't`` and ``dog's`` as ``dog 's``."""
    found: list[str] = []
    # COCO's scorer takes brackets out by their treebank names in capitals, so that in lower case they stay
    written = text.lower().replace("\u2019", "'").replace("(", " -lrb- ").replace(")", " -rrb- ")
    for match in _WORD.finditer(written):
        found.extend(_split(match[0]))
    return found


def _split(word: str) -> list[str]:
    if word in _JOINED:
        return list(_JOINED[word])
    if word.endswith(("'", ".", "-")):  # a plural's or a quote's sign is punctuation; abbreviations stay as they are
        return [word.removesuffix("'")]
    clitic = _CLITIC.search(word)
    if clitic and clitic.start():
        return [word[: clitic.start()], clitic[0]]
    # commas and colons are parts of numbers only
    return [word] if re.fullmatch(r"[\d.,:/]+", word) else re.split(r"[,:]", word)


def grams(words: Sequence[str]) -> Grams:
    """How often each run of one to four words occurs."""
    return Counter(tuple(words[at : at + n]) for n in range(1, LONGEST + 1) for at in range(len(words) - n + 1))


def bleu(pairs: Iterable[tuple[Sequence[str], Sequence[Sequence[str]]]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus of (words of a caption, words of its references).

    Matches are clipped by the reference that has most of an n-gram and added over the corpus; the length that a caption
    is held against is the nearest of its references' (of two the shorter).
    """
    matched, guessed = [0] * LONGEST, [0] * LONGEST
    said = wanted = 0
    for words, references in pairs:
        said += len(words)
        wanted += min((abs(len(one) - len(words)), len(one)) for one in references)[1]
        most: Grams = Counter()
        for one in references:
            most |= grams(one)
        own = grams(words)
        for gram, count in (own & most).items():
            matched[len(gram) - 1] += count
        for n in range(LONGEST):
            guessed[n] += max(0, len(words) - n)
    ratio = (said + _TINY) / (wanted + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    found, product = [], 1.0
    for n in range(LONGEST):
        product *= (matched[n] + _TINY) / (guessed[n] + _SMALL)
        found.append(product ** (1 / (n + 1)) * brevity)
    return found


@dataclass(frozen=True)
class Cider:
    """CIDEr-D against a set whose references say how common each n-gram is; 0 to 10, and papers print it times 100."""

    frequency: Mapping[tuple[str, ...], int]
    """Of how many items at least one reference has an n-gram."""
    items: int

    @classmethod
    def of(cls, references: Iterable[Sequence[Sequence[str]]]) -> Cider:
        """From the words of all references of each item."""
        frequency: Counter[tuple[str, ...]] = Counter()
        items = 0
        for listed in references:
            items += 1
            frequency.update({gram for words in listed for gram in grams(words)})
        return cls(frequency, items)

    def score(self, words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Of one caption. An n-gram that every item has says nothing: with one item, or equal references, it is 0."""
        own = self._vectors(words)
        total = 0.0
        for reference in references:
            other = self._vectors(reference)
            # COCO's scorer takes the number of pairs of words for the length
            longer = max(0, len(words) - 1) - max(0, len(reference) - 1)
            penalty = math.exp(-(longer**2) / (2 * SIGMA**2))
            total += penalty * sum(map(_similarity, own, other)) / LONGEST
        return 10 * total / len(references)

    def _vectors(self, words: Sequence[str]) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, count in grams(words).items():
            weight = math.log(self.items) - math.log(max(1, self.frequency.get(gram, 0)))
            found[len(gram) - 1][gram] = count * weight
        return found


def _similarity(own: Mapping[tuple[str, ...], float], other: Mapping[tuple[str, ...], float]) -> float:
    """Cosine, a caption's weights clipped to the reference's, so that repeating a word does not help."""
    norms = math.sqrt(sum(one**2 for one in own.values())) * math.sqrt(sum(one**2 for one in other.values()))
    shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
    return shared / norms if norms else 0.0
