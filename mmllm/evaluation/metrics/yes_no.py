"""Yes or no in an answer, by named rules."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

Variant = Literal["stated", "pope_official"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
_WORD = re.compile(r"[a-z]+")


def yes_no(text: str, variant: str = "stated") -> str | None:
    """What an answer says: yes, no, or None where neither can be read.

    ``stated``: its first word where that is yes or no, else the one of the two that occurs while the other does not.
    ``pope_official``: as POPE's authors count: in what stands before the first full stop, commas taken out and split at
    single spaces, ``No``, ``no`` or ``not`` is no, and everything else is yes ("NO" and nonsense too); an answer that
    is empty is none here as elsewhere.
    """
    if not text.strip():
        return None
    if variant == "pope_official":
        words = text.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "no", "not"} & set(words) else "yes"
    said = _WORD.findall(text.lower())
    if said and said[0] in ("yes", "no"):
        return said[0]
    found = {"yes", "no"} & set(said)
    return found.pop() if len(found) == 1 else None
