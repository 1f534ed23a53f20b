"""Who may import whom, from the table that ``tests/unit/test_imports.py`` holds every import statement to."""

from __future__ import annotations

from tests.unit.test_imports import EVERYBODY, FREE, MAY_IMPORT


def rooms() -> str:
    """A line per room."""
    lines = ["| room | may import, beside itself |", "|---|---|"]
    for room, others in MAY_IMPORT.items():
        allowed = [one for one in MAY_IMPORT if one in others]
        lines.append(f"| `{room}` | {', '.join(f'`{one}`' for one in allowed) or '-'} |")
    everybody = ", ".join(f"`{one}`" for one in sorted(EVERYBODY))
    free = ", ".join(f"`{one}`" for one in sorted(FREE))
    end = f"Any room may use {everybody}. {free} may import what they need; only `cli` uses them."
    return "\n".join([*lines, "", end])
