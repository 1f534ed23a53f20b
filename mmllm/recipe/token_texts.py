"""``llm.tokens`` of a recipe as the texts that it stands for: ``"<loc{000..999}>"`` is a thousand tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

MOST = 65_536
"""Tokens that one text may stand for."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def token_texts(written: Sequence[str]) -> tuple[str, ...]:
    """Texts of the new tokens in order; ``{0..9}`` counts in both directions, with zeros in front where one end has.

    Raises:
        ValueError: a text that is blank or stands twice, or more than :data:`MOST`.
    """
    for one in written:
        n = prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(one))
        if n > MOST:  # counted before they are written out, which of a zero too many takes minutes
            raise ValueError(f'"{one}" stands for {n:,} tokens; at most {MOST:,}')
    found = [text for one in written for text in _counted(one)]
    blank = next((text for text in found if not text.strip()), None)
    if blank is not None:
        raise ValueError(f"found {blank!r}; a token needs characters other than blanks")
    seen: set[str] = set()
    for text in found:
        if text in seen:
            raise ValueError(f'"{text}" stands twice; keep one')
        seen.add(text)
    return tuple(found)


def _counted(text: str) -> Iterator[str]:
    """A text with each number of its first range, and of those behind it."""
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        for rest in _counted(text[match.end() :]):
            yield f"{text[: match.start()]}{number:0{width}d}{rest}"
