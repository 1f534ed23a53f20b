"""Where the messages' texts stand in a rendered conversation: marks around them, and frames to put other texts into.

``template.py`` renders with the marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Unicode noncharacters: never meant for interchange, so no honest text holds them (a text that does is refused).
_MARK, _CLOSE = "\ufdd0", "\ufdd1"
_BOUNDS = re.compile(f"{_MARK}(\\d+){_MARK}|{_CLOSE}")

Span = tuple[int, int]
"""Characters [start, end) of a rendered text."""


@dataclass(frozen=True)
class Frame:
    """What a template writes around the texts of messages of certain roles."""

    order: tuple[int, ...]
    """Numbers of the messages in the order in which they are written."""
    around: tuple[str, ...]
    """What stands before each of them, and behind the last one."""

    @classmethod
    def of(cls, text: str, bounds: Mapping[int, Span]) -> Frame:
        """The frame of a rendered conversation, ``bounds`` of all its messages, none of them empty."""
        order = tuple(sorted(bounds, key=lambda i: bounds[i]))
        ends = [0, *(bounds[i][1] for i in order)]
        starts = [*(bounds[i][0] for i in order), len(text)]
        return cls(order, tuple(text[end:start] for end, start in zip(ends, starts, strict=True)))

    def filled(self, texts: Sequence[str]) -> tuple[str, dict[int, Span]]:
        """The conversation with these texts, and where each stands."""
        pieces: list[str] = []
        bounds: dict[int, Span] = {}
        position = 0
        for i, before in zip(self.order, self.around, strict=False):
            start = position + len(before)
            position = start + len(texts[i])
            bounds[i] = (start, position)
            pieces += (before, texts[i])
        return "".join(pieces) + self.around[-1], bounds


def is_bound(text: str) -> bool:
    """Whether a stretch holds marks and nothing else."""
    return bool(text) and not _BOUNDS.sub("", text)


def bounded(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages whose texts carry their number and end as marks, inside outer blanks, which a template may trim."""

    def mark(i: int, text: str) -> str:
        core = text.strip()
        lead = text[: text.find(core)] if core else text
        return f"{lead}{_MARK}{i}{_MARK}{core}{_CLOSE}{text[len(lead) + len(core) :]}"

    return [{**message, "content": mark(i, message["content"])} for i, message in enumerate(messages)]


def strip_bounds(text: str) -> tuple[str, dict[int, Span]]:
    """The text without bounds, and for each message rendered exactly once its (start, end) in it."""
    parts = _BOUNDS.split(text)  # text, number of a message or None at its end, text, ...
    clean = parts[::2]
    length = len(clean[0])
    # a message that is rendered twice has no place of its own, so its labels could not be told
    opened: int | None = None
    starts: dict[int, int] = {}
    bounds: dict[int, Span] = {}
    repeated: set[int] = set()
    for number, piece in zip(parts[1::2], clean[1:], strict=True):
        if number is not None:
            opened = int(number)
            if opened in starts:
                repeated.add(opened)
            starts[opened] = length
        elif opened is not None:
            bounds[opened] = (starts[opened], length)
            opened = None
        length += len(piece)
    return "".join(clean), {i: bound for i, bound in bounds.items() if i not in repeated}
