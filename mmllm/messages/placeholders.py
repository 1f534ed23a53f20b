"""Places of media in a text: ``<key>`` in a message of the system or the user; ``\\<key>`` there is the text itself.

Backslashes in front of a placeholder are read in pairs, each one backslash of the text; one left over makes the
placeholder text. What the assistant says is always text: it marks no place and needs no escape. Training data, prompts
of benchmarks, Python and requests share these rules; ``tokenize.py`` applies them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from mmllm.types import Message


@lru_cache(maxsize=64)
def _pattern(keys: frozenset[str]) -> re.Pattern[str]:
    """Backslashes and the placeholder behind them; the longest key first, though ``<`` and ``>`` already decide."""
    names = "|".join(re.escape(key) for key in sorted(keys, key=lambda key: (-len(key), key)))
    return re.compile(rf"(\\*)<({names})>" if keys else "(?!)()()")


def pieces(message: Message, keys: Collection[str]) -> list[tuple[str, bool]]:
    """Return the text in stretches (text, whether it is a placeholder), escapes undone; joined they are what is read.

    An escaped placeholder is a stretch of its own, a text like any other.
    """
    if message.role == "assistant" or "<" not in message.text:
        return [(message.text, False)] if message.text or message.role == "assistant" else []
    found: list[tuple[str, bool]] = []
    last = 0
    for match in _pattern(frozenset(keys)).finditer(message.text):
        slashes = len(match[1])
        found.append((message.text[last : match.start()] + "\\" * (slashes // 2), False))
        found.append((f"<{match[2]}>", slashes % 2 == 0))
        last = match.end()
    found.append((message.text[last:], False))
    return [piece for piece in found if piece[0]]


def count(message: Message, key: str) -> int:
    """Return how many items of ``key`` have their place in a message."""
    return sum(is_place for _, is_place in pieces(message, (key,)))


def without(message: Message, keys: Collection[str]) -> str:
    """Return the text without its placeholders and the line break behind each; escapes stay as they are."""
    if message.role == "assistant":
        return message.text
    return re.sub(
        _pattern(frozenset(keys)).pattern + "\n?",
        lambda match: match[0] if len(match[1]) % 2 else match[1][: len(match[1]) // 2],
        message.text,
    )


def escape(text: str, keys: Collection[str]) -> str:
    """Return a text that, in a message of the user, is read as ``text`` and marks no place."""
    return _pattern(frozenset(keys)).sub(lambda match: f"{match[1] * 2}\\<{match[2]}>", text)
