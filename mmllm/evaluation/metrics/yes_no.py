"""Yes or no in an answer, by named rules."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

Variant = Literal["stated", "pope_official", "mme_official"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
_WORD = re.compile(r"[a-z]+")


def yes_no(text: str, variant: str = "stated") -> str | None:
    """What an answer says: yes, no, or None where neither can be read.

    ``stated``: its first word where that is yes or no, else the one of the two that occurs while the other does not.
    ``pope_official``: as POPE's authors count: in what stands before the first full stop, commas taken out and split at
    single spaces, ``No``, ``no`` or ``not`` is no, and everything else is yes ("NO" and nonsense too); an answer that
    is empty is none here as elsewhere.
    ``mme_official``: as MME's authors count: yes or no where it is the whole answer, or where it stands in the first
    four characters, yes before no ("know" is no, "The answer is yes" is neither).
    """
    if not text.strip():
        return None
    if variant == "pope_official":
        words = text.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "no", "not"} & set(words) else "yes"
    if variant == "mme_official":
        return next((word for word in ("yes", "no") if word in text.lower()[:4]), None)
    said = _WORD.findall(text.lower())
    if said and said[0] in ("yes", "no"):
        return said[0]
    found = {"yes", "no"} & set(said)
    return found.pop() if len(found) == 1 else None
