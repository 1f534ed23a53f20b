"""The lettered option that an answer takes, read in a fixed order of evidence; what gives none is unparsed, so wrong.

Harnesses differ here, and some choose a random letter where they read none, or count an empty answer as right. Nothing
is guessed: stronger evidence is asked first and decides alone, and evidence for two options is evidence for none.

1. the whole answer is a letter: ``b``, ``(B)``, ``**B.**``
2. the last of what names the answer: ``The answer is B``, ``Answer: (B)``, ``\\boxed{B}``, ``B is correct``
3. a letter that the answer begins with: ``B. a dog``, ``(B) a dog``, ``B, a dog``
4. the one letter in brackets that stands for an option: ``it is the dog (B)``
5. the whole answer, or what it says the answer is, is the text of one option

Thoughts (``<think>``) and marks of Markdown, HTML and TeX are taken out first. Only letters of offered options count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_TAGGED = re.compile(r"<(answer|final_answer)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?([^{}]*)\}?\}")
_TAGS = re.compile(r"</?[A-Za-z][\w-]*>")
_MARKS = re.compile(r"[*`$]|(?<!\w)_+|_+(?!\w)")
_CJK = str.maketrans("\u3010\u3011\u3002\u2019", "[].'")
"""What Unicode's compatibility form leaves: lenticular brackets, the ideographic full stop, the curly apostrophe."""

_LETTER = r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z]))"
_END = r"(?![\w'+#&/-])"
"""Behind a letter that is a word of its own: not of "B's", "C++" or "B-52"."""
_ALONE = re.compile(rf"{_LETTER}\s*[).:,]?\s*\.?", re.DOTALL)
_NAMES = re.compile(
    r"\b(?:answer|choice|option)s?(?:\s+(?:is|are|should\s+be|would\s+be|must\s+be))?\s*[:=-]?\s*"
    rf"(?:(?:the\s+)?(?:option|choice|letter|answer)\s+)?{_LETTER}{_END}"
    r"|\b(?:so|thus|therefore|hence|choose|chose|pick|select|go\s+with|it\s+is|it's)\s*[:,]?\s*"
    rf"{_LETTER}(?=\s*[.!]?\s*(?:$|\n))",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    rf"(?<![\w']){_LETTER}\s+(?:is|seems|looks|must\s+be)\s+(?:the\s+)?(?:only\s+)?"
    r"(?:right|correct|best|answer|true)\b"
)
_LEADING = re.compile(
    r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Z])(?=[).:,;]|\s|$)|([a-z])(?=[).:](?:\s|$)))", re.DOTALL
)
_BRACKET = re.compile(r"(?<![A-Za-z0-9])\(\s*([A-Z])\s*\)")
_DENIED = re.compile(
    r"\s*(?:is|are|was|seems|looks|cannot|can't|isn't|does|doesn't)\s*(?:be\s+|not\b|wrong|false|incorrect|n't)"
)
_ANOTHER = re.compile(rf"\s*[).:]?\s*(?:,|/|&|or|and)\s*{_LETTER}{_END}")
_BEHIND_A_WORD = re.compile(r"\s+(?!because|since|as\b|for\b|due|with\b|which|where|and\b|or\b|is\b|but\b)[a-z]")
"""Behind "A" or "I" as words: "A dog", "I see"; not behind the letter: "A because"."""
_SAYS = re.compile(
    r"^(?:(?:so|thus|therefore)\s*,?\s*)?(?:the\s+)?(?:(?:correct|right|best|final)\s+)?answer\s*(?:is|:)\s*",
    re.IGNORECASE,
)


def taken(prediction: str, options: Sequence[str]) -> int | None:
    """Which of ``options`` (their texts, lettered from A) an answer takes, from 0, or None."""
    text = _bare(prediction)
    found = _by_letter(text, ascii_uppercase[: len(options)], options)
    if found is not None:
        return ascii_uppercase.index(found)
    said = {plain(text), plain(_SAYS.sub("", text))} - {""}
    same = [number for number, option in enumerate(options) if plain(option) in said]
    # two options may have one text: the first stands for both
    return same[0] if len({plain(options[number]) for number in same}) == 1 else None


def letter(prediction: str, offered: str = ascii_uppercase) -> str | None:
    """The letter of ``offered`` that an answer takes, upper case, or None: :func:`taken` without the options' texts."""
    return _by_letter(_bare(prediction), offered, ())


def plain(text: str) -> str:
    """A text as options are compared: lower case, outer punctuation and double spaces gone."""
    return " ".join(text.lower().split()).strip(" .,;:!?*`\"'")


def stated(prediction: str) -> str:
    """A text without thoughts and tags; what a tag or a box says is the answer is said in words: ``answer: B``."""
    text = _THOUGHTS.sub("", unicodedata.normalize("NFKC", prediction).translate(_CJK))
    tagged = _TAGGED.findall(text)
    if tagged:
        text = tagged[-1][1]
    return _TAGS.sub(" ", _BOXED.sub(r" answer: \1 \n", text))


def _bare(prediction: str) -> str:
    """Without marks of Markdown and TeX too."""
    return _MARKS.sub("", stated(prediction)).strip().strip("\"'").strip()


def _by_letter(text: str, offered: str, options: Sequence[str]) -> str | None:
    if alone := _ALONE.fullmatch(text):
        return _known(alone, offered)
    for evidence in (_named, _leading, _bracketed):
        found = list(evidence(text, offered, options))
        if found:
            # of statements the last one counts; of other evidence there is one or none
            return found[-1] if evidence is _named or len(set(found)) == 1 else None
    return None


def _known(match: re.Match[str], offered: str) -> str | None:
    found = next((group for group in match.groups() if group), "").upper()
    return found if found and found in offered else None


def _named(text: str, offered: str, options: Sequence[str]) -> Iterator[str | None]:
    """Statements in order; None for one that names two."""
    matches = sorted([*_NAMES.finditer(text), *_IS_RIGHT.finditer(text)], key=lambda one: one.end())
    for match in matches:
        found = _known(match, offered)
        rest = text[match.end() :]
        if found is None or _DENIED.match(rest) or _is_word(match, rest):
            continue
        other = _ANOTHER.match(rest)
        yield None if other and _known(other, offered) not in (None, found) else found


def _leading(text: str, offered: str, options: Sequence[str]) -> Iterator[str | None]:
    match = _LEADING.match(text)
    found = None if match is None else _known(match, offered)
    if match is None or found is None:
        return
    rest = text[match.end() :]
    if _DENIED.match(rest) or _is_word(match, rest) or re.match(r"\.[A-Z]\.", rest):
        return
    other = _ANOTHER.match(rest)
    yield None if other and _known(other, offered) not in (None, found) else found


def _bracketed(text: str, offered: str, options: Sequence[str]) -> Iterator[str]:
    """Letters in brackets that stand for an option: behind its text, or behind "is"; not those of "vitamin (C)"."""
    for match in _BRACKET.finditer(text):
        found = _known(match, offered)
        if found is None or _DENIED.match(text[match.end() :]):
            continue
        before = text[: match.start()].rstrip()
        number = ascii_uppercase.index(found)
        behind_text = number < len(options) and plain(before).endswith(plain(options[number]) or "\0")
        if behind_text or re.search(r"\b(?:is|be|take|say|with)$", before, re.IGNORECASE):
            yield found


def _is_word(match: re.Match[str], rest: str) -> bool:
    """Whether the letter is the article "a" or the word "I"."""
    return match[0][-1] in "AaIi" and bool(_BEHIND_A_WORD.match(rest))
