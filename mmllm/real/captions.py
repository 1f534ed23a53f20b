"""One caption per picture of easy-VQA ("red circle"), from its questions' own answers; no picture is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

SHAPES = frozenset({"circle", "rectangle", "triangle"})
COLOURS = frozenset({"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"})
_NEGATIONS = frozenset({"not", "no"})


def captions(rows: Iterable[Sequence[Any]]) -> dict[int, str]:
    """Picture -> colour and shape, for those where the answers leave one of each.

    ``rows``: [question, answer, picture]. What a question names is there (or not, as the answer and a negation say);
    "what is the blue shape?" says that it is blue.
    """
    left: dict[int, tuple[set[str], set[str]]] = {}
    for question, answer, picture in rows:
        words = set(re.findall(r"[a-z]+", question))
        found = left.setdefault(picture, (set(COLOURS), set(SHAPES)))
        for possible, names in zip(found, (COLOURS, SHAPES), strict=True):
            named = words & names
            if answer in names:
                possible &= {answer}
            elif answer in ("yes", "no") and len(named) == 1:
                there = (answer == "yes") != bool(words & _NEGATIONS)
                possible &= named if there else names - named
            elif answer not in ("yes", "no") and len(named) == 1:
                possible &= named
    return {
        picture: f"{next(iter(colours))} {next(iter(shapes))}"
        for picture, (colours, shapes) in left.items()
        if len(colours) == len(shapes) == 1
    }
