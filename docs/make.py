"""Writes the parts of these pages that come from the code: words of a recipe, real errors, parts, connectors, rooms.

``python -m docs.make`` rewrites them all, ``python -m docs.make NAME...`` some. ``tests/unit/test_docs.py`` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from docs.write import real
from docs.write.connectors import table
from docs.write.errors import errors
from docs.write.inspect import inspected
from docs.write.parts import arguments
from docs.write.published import table as published
from docs.write.rooms import rooms
from docs.write.sections import sections
from docs.write.sets import table as sets

HERE = Path(__file__).resolve().parent
BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "sections": ("recipes.md", sections),
    "errors": ("recipes.md", errors),
    "encoders": ("parts.md", partial(arguments, "encoders")),
    "connectors": ("parts.md", partial(arguments, "connectors")),
    "datasets": ("parts.md", partial(arguments, "datasets")),
    "benchmarks": ("parts.md", partial(arguments, "benchmarks")),
    "table": ("connectors.md", table),
    "rooms": ("architecture.md", rooms),
    "inspect": ("data.md", inspected),
    "sets": ("data.md", sets),
    "published": ("published-models.md", published),
    "real_scores": ("real-model.md", real.scores),
    "real_speakers": ("real-model.md", real.speakers),
    "real_choice": ("real-model.md", real.choices),
    "real_teachers": ("real-model.md", real.teachers),
    "real_text": ("real-model.md", real.text),
    "real_samples": ("real-model.md", real.samples),
    "real_machine": ("real-model.md", real.machine),
}
"""Name of a block -> page it stands in, and what writes it."""


def marks(name: str) -> tuple[str, str]:
    """Lines that a block stands between."""
    return f"<!-- {name}: written by python -m docs.make -->", f"<!-- end of {name} -->"


def written(name: str) -> str:
    """What stands in the page now."""
    start, end = marks(name)
    return (HERE / BLOCKS[name][0]).read_text(encoding="utf-8").split(start)[1].split(end)[0].strip("\n")


def write(name: str) -> None:
    """Replace a block in its page by what its writer gives."""
    page, writer = BLOCKS[name]
    start, end = marks(name)
    made = writer()  # some take minutes: the page is read when they are done
    before, rest = (HERE / page).read_text(encoding="utf-8").split(start)
    text = f"{before}{start}\n\n{made}\n\n{end}{rest.split(end)[1]}"
    (HERE / page).write_text(text, encoding="utf-8")


def main(names: Sequence[str] | None = None) -> None:
    """Write the named blocks, or all."""
    chosen = list(sys.argv[1:] if names is None else names) or list(BLOCKS)
    unknown = [name for name in chosen if name not in BLOCKS]
    if unknown:
        raise SystemExit(f"there is no block {unknown[0]}; known: {', '.join(BLOCKS)}")
    for name in chosen:
        write(name)


if __name__ == "__main__":
    main()
