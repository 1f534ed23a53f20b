"""Lettered options of a question and how the right one is named: by letter, number or text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from mmllm.datasets.containers.json_rows import unpacked
from mmllm.errors import MmllmError, shortened

_NONE = ("", "nan", "N/A")
_OWN_LETTER = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def listed(found: Any) -> tuple[str, ...]:
    """Texts of options from a list, a list as text, or one column each; letters that they bear already taken off.

    Empty ones at the end are none. MmllmError where there are fewer than two, or one is missing among them: the
    letters behind it would stand for others than the set means.
    """
    values = unpacked(found)
    if not isinstance(values, list | tuple):
        raise MmllmError(f"it has the options {shortened(found)}; they are a list of two or more texts")
    texts = ["" if one is None or one != one or str(one) in _NONE else str(one) for one in values]
    while texts and not texts[-1]:
        texts.pop()
    if len(texts) < 2 or "" in texts:
        raise MmllmError(f"it has the options {shortened(values)}; they are two or more texts, without a gap")
    own = [_OWN_LETTER.fullmatch(text) for text in texts]
    if all(match and match[1] == letter for match, letter in zip(own, ascii_uppercase, strict=False)):
        return tuple(match[2] for match in own if match)
    return tuple(texts)


def right(found: Any, options: Sequence[str], gold: str) -> tuple[str, str]:
    """Letter and text of the right option, which ``found`` names by its ``gold``: letter, index from 0, or text."""
    offered, text = ascii_uppercase[: len(options)], str(found).strip()
    number = -1
    if gold == "letter":
        bare = text.strip("(). ").upper()
        number = offered.index(bare) if len(bare) == 1 and bare in offered else -1
    elif gold == "index":
        number = int(text) if text.isdigit() and int(text) < len(options) else -1
    elif text in options:
        number = list(options).index(text)
    if number < 0:
        known = {"letter": f"a letter of {offered}", "index": f"a number from 0 to {len(options) - 1}"}
        raise MmllmError(f"it has the answer {shortened(found)}; it is {known.get(gold, 'the text of an option')}")
    return offered[number], options[number]
