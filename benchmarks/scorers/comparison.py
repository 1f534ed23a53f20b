"""One metric beside one peer: cases are drawn, both score each, and every difference has a reason or is a finding."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

Draw = Callable[[Random], Any]
"""Random numbers -> a case."""
Score = Callable[[Any], Any]
"""Case -> what is compared: a score, or the option or the words that are read."""
UNDECIDED = "not decided"


@dataclass(frozen=True)
class Reason:
    """Why two scorers differ on a case, and which of them does as published."""

    says: str
    """One sentence for the table."""
    applies: Callable[[Any], bool]
    """Whether a case is one of it."""


@dataclass(frozen=True)
class Comparison:
    """A metric of ours beside a peer's."""

    metric: str
    """Name and variant of ours."""
    peer: str
    """Name, version and function of the other."""
    draw: Draw
    ours: Score
    theirs: Score
    reasons: Sequence[Reason] = ()
    together: Callable[[Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]] | None = None
    """Scores of all cases at once, (ours, theirs), where one case has none of its own."""
    tolerance: float = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison."""

    metric: str
    peer: str
    n: int
    equal: int
    different: dict[str, int]
    """Reason -> cases."""
    shown: list[dict[str, Any]] = field(default_factory=list)
    """The first case of each reason, and the first five that no reason explains."""


def compare(one: Comparison, n: int, seed: int) -> Outcome:
    """Draw ``n`` cases by a seed and score them twice."""
    draw = Random(f"{seed}/{one.metric}/{one.peer}")
    cases = [one.draw(draw) for _ in range(n)]
    if one.together is not None:
        ours, theirs = one.together(cases)
    else:
        ours, theirs = [one.ours(case) for case in cases], [one.theirs(case) for case in cases]
    different: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for case, a, b in zip(cases, ours, theirs, strict=True):
        if _same(a, b, one.tolerance):
            continue
        reason = next((reason.says for reason in one.reasons if reason.applies(case)), UNDECIDED)
        different[reason] += 1
        if different[reason] <= (5 if reason == UNDECIDED else 1):
            shown.append({"reason": reason, "case": case, "ours": a, "theirs": b})
    return Outcome(one.metric, one.peer, n, n - sum(different.values()), dict(different), shown)


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return bool(a == b)
