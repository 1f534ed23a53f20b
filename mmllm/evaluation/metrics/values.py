"""The value that an answer says: an integer, a number with so many decimals, a list of numbers; as MathVista compares.

In this order: what is in the last ``\\boxed{}``, or behind the last "answer is" or "answer:"; else in the whole answer.
There the first value counts where it was announced, and the last where not. Thoughts are taken out first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from mmllm.evaluation.metrics.choice import stated

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+"
_NUMBERS, _LISTS = re.compile(rf"(?<![\w.])(?:{_NUMBER})"), re.compile(r"\[[^\[\]]*\]")
_ANNOUNCED = re.compile(r"\banswer(?:\s+is|\s*:)\s*", re.IGNORECASE)


def _integer(text: str, precision: float | None) -> str | None:
    return str(int(float(text.replace(",", ""))))


def _decimals(text: str, precision: float | None) -> str | None:
    return str(round(float(text.replace(",", "")), int(precision or 0)))


def _list(text: str, precision: float | None) -> str | None:
    found = ast.literal_eval(text)
    return str(found) if all(isinstance(one, int | float) for one in found) else None


_READ: dict[str, tuple[re.Pattern[str], Callable[[str, float | None], str | None]]] = {
    "integer": (_NUMBERS, _integer),
    "float": (_NUMBERS, _decimals),
    "list": (_LISTS, _list),
}
TYPES = tuple(_READ)
"""Types of values."""


def said_value(prediction: str, kind: str, precision: float | None = None) -> str | None:
    """The value as it is compared (``"12"``, ``"1.5"`` to ``precision`` decimals, ``"[1]"``), None where none is read.

    ``kind`` is one of ``TYPES``.
    """
    pattern, read = _READ[kind]
    text = stated(prediction).replace("\u2212", "-")  # the sign for minus
    announced = list(_ANNOUNCED.finditer(text))
    found = pattern.findall(text[announced[-1].end() :])[:1] if announced else []
    found = found or pattern.findall(text)[-1:]
    try:
        return read(found[0], precision) if found else None
    except (ValueError, SyntaxError, OverflowError):
        return None
