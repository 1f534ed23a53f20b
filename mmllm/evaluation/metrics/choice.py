"""The lettered option that an answer takes, by fixed rules; what fits none of them is unparsed, so wrong.

Harnesses differ here, and some choose a random letter where they read none or count an empty answer as right. These
rules never guess: an answer that names two letters, or none, or begins with the word "A", takes no option.
"""

from __future__ import annotations

import re

# a letter with or without brackets and a mark behind it, and nothing else
_ALONE = re.compile(r"\(?([A-Za-z])[).:]?\.?")
# letters only in upper case here: in a sentence "a" is a word, and "i" too
_NAMED = (
    re.compile(r"^(?:\(([A-Z])\)|([A-Z])[.):])(?=\s|$)"),
    re.compile(
        r"(?i:\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*(?:option\s+)?)(?:\(([A-Z])\)|([A-Z])(?=[.,:;)]|\s*$))"
    ),
    re.compile(r"\(([A-Z])\)()"),
)


def letter(prediction: str) -> str | None:
    """The letter an answer takes, upper case, or None.

    Either the answer is a letter (``b``, ``(B)``, ``B.``), or it names exactly one, however often: it begins with it
    (``B. on the left``, ``(B) left``), says "answer/option/choice (is) B", or has it in brackets.
    """
    # models put answers into bold, code or quotes
    text = prediction.strip().strip("*`\"'").strip()
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    found = {match[1] or match[2] for rule in _NAMED for match in rule.finditer(text)}
    return found.pop() if len(found) == 1 else None


def plain(text: str) -> str:
    """A text as options are compared: lower case, outer punctuation and double spaces gone."""
    return " ".join(text.lower().split()).strip(" .,;:!?*`\"'")
