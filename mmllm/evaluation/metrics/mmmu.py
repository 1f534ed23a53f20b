"""How MMMU's authors score an open answer: texts and numbers of what is said, compared with the right ones.

Right is what holds a right text in one of its statements, or names a right number, to two decimals. A statement is what
stands behind the last ``is``, ``answer``, ``so``, ... of a line (of the last line also behind ``=``), the shortest of
them; where there is none, the whole answer. Source: ``eval_utils.py`` of MMMU-Benchmark/MMMU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_NAMES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NOTHING = ("", ":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With commas, with an exponent, plain: a number may be found in several forms, each counts."""


def open_answer(prediction: str, answers: Sequence[str]) -> float:
    """1 where a right text stands in what is said or a right number is named, else 0."""
    right = {one for answer in answers for one in _forms(answer)}
    texts = [one for one in right if isinstance(one, str)]
    for said in _said(prediction):
        for form in _forms(said):
            if form in right if isinstance(form, float) else any(text in form for text in texts):
                return 1.0
    return 0.0


def _said(prediction: str) -> Iterator[str]:
    """Statements, and the numbers in them as they are written."""
    # the authors' own split at the ends of sentences asks for a capital behind them, and finds none in lower case
    *lines, last = prediction.strip().strip(".").lower().split("\n")
    statements = [*(_statement(line, _NAMES) for line in lines), _statement(last, (*_NAMES, "="))]
    for statement in [one for one in statements if one not in _NOTHING] or ["\n".join([*lines, last])]:
        yield statement
        for pattern in _NUMBERS:
            yield from pattern.findall(statement)


def _statement(line: str, names: Sequence[str]) -> str:
    """The shortest text behind a name, the first of equally short ones; empty ones only where there is no other."""
    tails = [line.rpartition(name)[2].strip() for name in names if name in line]
    return min(filter(None, tails), key=len, default="")


def _forms(text: str) -> list[str | float]:
    """What is compared: a number to two decimals; a text in lower case, a single sign only beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
