"""Rows counted and named: of many rows of one kind only the first are named."""

from __future__ import annotations

from dataclasses import dataclass, field

NAMED = 5
"""Rows that are named of each kind; the rest is counted."""


@dataclass
class Named:
    """A number of rows, the first of them by name."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count a row."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name)

    def listed(self) -> str:
        """Return the names, and how many more there are."""
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more:,} more" if more else "")
