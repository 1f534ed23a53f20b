"""Tags of tasks and places in an answer, read whatever it says; nothing that a model may write raises an error.

UnifiedMLLM (Li et al. 2024, arXiv 2408.02503) lets one LLM ask for many tools by text alone: a task token says which,
grounding tokens say where. Its strings are not published; these are ours::

    <task:segment>the red cup <box>0.1,0.2,0.4,0.9</box></task>    <point>0.5,0.5</point>

What is malformed, and a task that nobody knows, is text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_TAG = re.compile(
    r"<task:(?P<task>[A-Za-z0-9_-]{1,64})>|(?P<close></task>)|"
    r"<(?P<kind>box|point)>(?P<numbers>[0-9., -]{1,100})</(?P=kind)>"
)
_NUMBER = re.compile(r"-?\d{1,9}(?:\.\d{1,9})?")
_SIZES = {"box": 4, "point": 2}


@dataclass(frozen=True)
class Place:
    """A box or a point, its numbers as the model wrote them."""

    kind: str
    """``box`` (left, top, right, bottom) or ``point`` (across, down)."""
    numbers: tuple[float, ...]
    start: int
    """Characters of the answer that it takes."""
    end: int

    def body(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return {"type": self.kind, "numbers": list(self.numbers), "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Task:
    """A tool that the model asks for."""

    name: str
    text: str
    """What stands between its tags, without those of places."""
    places: tuple[Place, ...]
    start: int
    end: int

    def body(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        places = [place.body() for place in self.places]
        return {
            "type": "task",
            "task": self.name,
            "text": self.text,
            "places": places,
            "start": self.start,
            "end": self.end,
        }


def read_tags(text: str, known: Collection[str]) -> list[Task | Place]:
    """Return the tasks of ``known`` names and the places outside of them, in the order of the text.

    A task ends at the next ``</task>``; one that is opened again before, or never closed, is text, and its places stand
    for themselves.
    """
    found: list[Task | Place] = []
    opened: re.Match[str] | None = None
    inside: list[Place] = []
    for match in _TAG.finditer(text):
        if match["task"] is not None:
            if match["task"] in known:
                found += inside
                opened, inside = match, []
        elif match["close"] is not None:
            if opened is not None:
                said = _without(text, opened.end(), match.start(), inside)
                found.append(Task(opened["task"], said, tuple(inside), opened.start(), match.end()))
                opened, inside = None, []
        elif (place := _place(match)) is not None:
            (found if opened is None else inside).append(place)
    return found + inside


def _place(match: re.Match[str]) -> Place | None:
    numbers = [number.strip() for number in match["numbers"].split(",")]
    if len(numbers) != _SIZES[match["kind"]] or not all(map(_NUMBER.fullmatch, numbers)):
        return None
    return Place(match["kind"], tuple(map(float, numbers)), match.start(), match.end())


def _without(text: str, start: int, end: int, places: list[Place]) -> str:
    """Return a part of a text without its places, blanks around them joined."""
    bounds = [start, *(side for place in places for side in (place.start, place.end)), end]
    pieces = [text[first:last] for first, last in zip(bounds[::2], bounds[1::2], strict=True)]
    return " ".join(" ".join(pieces).split())
