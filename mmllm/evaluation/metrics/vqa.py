"""VQA accuracy (Antol et al. 2015, arXiv 1505.00468) in its named variants: which texts are normalised, and how.

There is no single "VQA accuracy": the official scorer of 2021, the one before it, lmms-eval and MMF's TextVQA scorer
disagree on real answers, so the variant is part of a score's name and stands in ``results.json``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, get_args

from mmllm.errors import MmllmError

Variant = Literal["vqa_official_2021", "vqa_2017", "vqa_lmms", "textvqa_mmf"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
# The scorers' look-behind is misspelt, so only a digit after the period protects it ("3." -> "3", ".5" stays), and
# their "flags" argument is really the count: they delete the first 32 periods only. Both decide published scores.
_PERIOD: Final = re.compile(r"\.(?!\d)")
_PERIODS: Final = int(re.UNICODE)
_DIGIT_COMMA: Final = re.compile(r"\d,\d")
_NUMBERS: Final = {
    word: str(number)
    for number, words in enumerate("none,zero one two three four five six seven eight nine ten".split())
    for word in words.split(",")
}
_ARTICLES: Final = frozenset({"a", "an", "the"})
_CONTRACTED: Final = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    # A known misspelling is the word with exactly one apostrophe left out; the last entry is the scorers' own slip.
    table = {
        word[:at] + word[at + 1 :]: word
        for word in _CONTRACTED.split()
        for at, character in enumerate(word)
        if character == "'"
    }
    return {**table, "somebody'd": "somebodyd"}


_CONTRACTIONS: Final = _contractions()


def strip_punctuation(text: str) -> str:
    """The scorers' first step: a mark goes where it touches a space (or "digit,digit" occurs), else becomes a space."""
    everywhere = _DIGIT_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if everywhere or touches_space else " ")
    return _PERIOD.sub("", result, count=_PERIODS)


def fold_words(text: str) -> str:
    """The scorers' second step: lower case, number words to digits (up to ten), no articles, apostrophes put back."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalise(text: str) -> str:
    """Both steps of the official VQA normalisation, line breaks and tabs first turned into spaces."""
    return fold_words(strip_punctuation(_spaces(text)))


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: Variant = "vqa_official_2021") -> float:
    """Mean over the annotators of ``min(1, matches among the others / 3)``, in 0..1.

    ``vqa_official_2021`` normalises both sides only where the annotators differ; ``vqa_2017`` always normalises the
    prediction but of the answers only the punctuation, and only where they differ; ``vqa_lmms`` always normalises
    both; ``textvqa_mmf`` first lower-cases, deletes commas and question marks and splits off ``'s``, on both sides.
    """
    if variant not in VARIANTS:
        raise MmllmError(f"VQA accuracy has no variant {variant!r}; there are {', '.join(VARIANTS)}.")
    if not answers:
        raise MmllmError("VQA accuracy needs at least one annotator's answer and was given none.")
    said, wanted = _prepared(prediction, answers, variant)
    matches = sum(answer == said for answer in wanted)
    return sum(min(1.0, (matches - (answer == said)) / 3) for answer in wanted) / len(wanted)


def _prepared(prediction: str, answers: Sequence[str], variant: Variant) -> tuple[str, list[str]]:
    if variant == "textvqa_mmf":
        return normalise(_mmf_words(prediction)), [normalise(_mmf_words(answer)) for answer in answers]
    if variant == "vqa_lmms":
        return normalise(prediction), [normalise(answer) for answer in answers]
    if variant == "vqa_2017":
        differ = len(set(answers)) > 1
        return normalise(prediction), [strip_punctuation(answer) if differ else answer for answer in answers]
    said, wanted = _spaces(prediction), [_spaces(answer) for answer in answers]
    if len(set(wanted)) == 1:
        return said, wanted
    return normalise(said), [normalise(answer) for answer in wanted]


def _spaces(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _mmf_words(text: str) -> str:
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
