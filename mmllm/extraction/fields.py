"""The values of a JSON text with where they stand in it, and how probable the tokens there were."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Leaf:
    """A value that is neither object nor list."""

    pointer: str
    """Its place, a JSON Pointer (RFC 6901): ``/items/0/price``."""
    value: Any
    start: int
    end: int
    """Its characters, and for what has no quotes the one behind it: only that says where it ends."""


def leaves(text: str) -> list[Leaf]:
    """The values of a valid JSON text, in its order."""
    found: list[Leaf] = []
    _walk(text, 0, "", found)
    return found


def probability(leaf: Leaf, pieces: Sequence[tuple[str, float]]) -> float:
    """Probability of a value: the product over all tokens that have a character of it.

    Args:
        leaf: of the text that the pieces make.
        pieces: texts of the answer in order, each with the log-probability of its tokens.
    """
    total, at = 0.0, 0
    for text, logprob in pieces:
        if at < leaf.end and at + len(text) > leaf.start:
            total += logprob
        at += len(text)
    return math.exp(total)


def _walk(text: str, at: int, pointer: str, found: list[Leaf]) -> int:
    """Add the values of what begins at a place to ``found``; returns where that ends."""
    at = _past_blanks(text, at)
    if text[at] not in "{[":
        value, end = _DECODER.raw_decode(text, at)
        found.append(Leaf(pointer, value, at, end if isinstance(value, str) else end + 1))
        return end
    close, number = {"{": "}", "[": "]"}[text[at]], 0
    is_object = close == "}"
    at = _past_blanks(text, at + 1)
    while text[at] != close:
        name = str(number)
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            name, at = key.replace("~", "~0").replace("/", "~1"), _past_blanks(text, at) + 1
        at = _past_blanks(text, _walk(text, at, f"{pointer}/{name}", found))
        number += 1
        if text[at] == ",":
            at = _past_blanks(text, at + 1)
    return at + 1


def _past_blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()
