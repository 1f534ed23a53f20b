"""Name -> "module:Class" tables of encoders, connectors, datasets and benchmarks, read without importing any part.

First stop of everything that turns a recipe's ``type:`` into a class. A class is imported only by ``load``.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

PACKAGES = {
    "encoders": "mmllm.encoders",
    "connectors": "mmllm.connectors",
    "datasets": "mmllm.datasets",
    "benchmarks": "mmllm.evaluation.benchmarks",
}
"""Group -> package whose ``TABLE`` lists it; third parties add to a group by entry points named ``mmllm.<group>``."""
FORMER = {"sources": "datasets"}
"""Earlier name of a group -> its name; both are understood, also as a group of entry points."""

EncoderPart = Mapping[str, Any]
"""An argument that is an encoder itself: its ``type`` and arguments; the recipe's checks look into it."""


class UnknownName(LookupError):
    """A name that no table holds, or a "module:Class" that is not there; the message is one full sentence."""


def groups() -> tuple[str, ...]:
    """Kinds of parts that recipes name."""
    return tuple(PACKAGES)


def table(group: str) -> dict[str, str]:
    """Name -> "module:Class" of one group: the package's table and entry points, which may not redefine a name."""
    group = FORMER.get(group, group)
    if group not in PACKAGES:
        raise UnknownName(unknown_sentence(f'there is no group "{group}"', group, PACKAGES))
    found = dict(importlib.import_module(PACKAGES[group]).TABLE)  # that package imports no part
    for point in _points(group, tuple(sys.path)):
        if found.setdefault(point.name, point.value) != point.value:
            raise UnknownName(
                f'entry point mmllm.{group} "{point.name}" = {point.value} redefines {found[point.name]}; '
                "rename it in the package that declares it."
            )
    return found


def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a group in the packages on ``path``, which is ``sys.path``."""
    names = [group, *(former for former, now in FORMER.items() if now == group)]
    return tuple(point for name in names for point in _declared(path).select(group=f"mmllm.{name}"))


@lru_cache(maxsize=4)
def _declared(path: tuple[str, ...]) -> Any:
    """All entry points of the packages on ``path``: to find those of one group, every package's file is read too.

    Python 3.11 and later ones have different classes for them, which have ``select`` in common.
    """
    return entry_points()


def locate(group: str, type: str) -> str:
    """The "module:Class" of a table name; a name with a colon is taken as such already. Unknown -> ``UnknownName``."""
    if ":" in type:
        return type
    known = table(group)
    if type not in known:
        raise UnknownName(unknown_sentence(f'{FORMER.get(group, group)} has no type "{type}"', type, known))
    return known[type]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, if any is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def unknown_sentence(found: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in ``known``; ``found`` says what there is not."""
    near = nearest(name, known)
    hint = f'; did you mean "{near}"?' if near else "."
    return f"{found}; known: {', '.join(sorted(known)) or 'none'}{hint}"
