"""Descriptions of the world's matters: facts (groups of words), questions about them, and one canonical caption."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ask:
    """One question with its only right answer; box is x1, y1, x2, y2 in 0..99 where the answer is a box."""

    kind: str
    question: str
    answer: str
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Described:
    """A scene, document, digit ... as words: one fact is one group of words such as ("a1", "red", "circle")."""

    matter: str
    facts: tuple[tuple[str, ...], ...]
    asks: tuple[Ask, ...]
    caption: str
    ordered: bool = False
    cells: tuple[tuple[int, ...], ...] = field(default=())

    def text(self, separator: str = "; ") -> str:
        """The facts as one line of text, words joined by spaces, facts by the separator."""
        return separator.join(" ".join(fact) for fact in self.facts)
