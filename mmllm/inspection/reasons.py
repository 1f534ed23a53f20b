"""Reasons why rows cannot be used, alike ones together; ``survey.py`` fills them with the sentences of training."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmllm.inspection.naming import Named

# what differs between rows with the same fault: quoted values, paths, numbers
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|\S*[/\\]\S*|\S+\.[A-Za-z]\w{1,4}\b|\d+(?:[.,]\d+)*""")


@dataclass(frozen=True)
class Reason:
    """One fault of one or more rows."""

    sentence: str
    """As the first of them has it."""
    rows: Named


class Reasons:
    """Counts faults by what their sentences say, apart from names, paths and numbers."""

    def __init__(self) -> None:
        self._found: dict[str, Reason] = {}

    def add(self, name: str, sentence: str) -> None:
        """Count a row; its name is taken off the sentence's head."""
        sentence = sentence.removeprefix(f"{name}: ")
        reason = self._found.setdefault(_VARIES.sub("…", sentence), Reason(sentence, Named()))
        reason.rows.add(name)

    @property
    def count(self) -> int:
        """Rows with a fault."""
        return sum(reason.rows.count for reason in self._found.values())

    def listed(self) -> list[Reason]:
        """Return them, the most frequent first."""
        return sorted(self._found.values(), key=lambda reason: -reason.rows.count)
