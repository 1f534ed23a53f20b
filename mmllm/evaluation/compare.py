"""Two runs on the same questions: paired differences by benchmark and kind, and the answers that changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import CATEGORY_SEPARATOR
from mmllm.evaluation.metrics.paired import difference, mcnemar
from mmllm.evaluation.predictions import Prediction, kept

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
"""Changed answers that are printed of each benchmark."""
ALL = "all"


@dataclass(frozen=True)
class Row:
    """A benchmark, or a kind of its questions, in both runs."""

    name: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    gained: int
    """Questions that scored higher in the second run."""
    lost: int
    p: float
    """By chance the split of gained and lost is as uneven with this probability."""


@dataclass(frozen=True)
class Compared:
    """A benchmark in both runs."""

    name: str
    metric: str
    rows: Sequence[Row]
    """All questions first, then each kind."""
    changed: Sequence[tuple[Prediction, Prediction]]
    notes: Sequence[str]


def compare(first: Path, second: Path, names: Sequence[str] | None = None) -> list[Compared]:
    """Compare two runs (or folders that ``eval --out`` wrote) on every benchmark that both were scored on.

    Raises MmllmError: one has no results, they have no benchmark in common, or a benchmark was not the same in both.
    """
    results = [_results(Path(run)) for run in (first, second)]
    common = [name for name in results[0] if name in results[1]]
    unknown = [name for name in names or () if name not in common]
    if unknown or not common:
        has = "; ".join(f"{run} has {', '.join(found)}" for run, found in zip((first, second), results, strict=True))
        raise MmllmError(f"{unknown[0] if unknown else 'no benchmark'} is in the results of both: {has}.")
    return [_compared(name, (first, second), [found[name] for found in results]) for name in names or common]


def _results(run: Path) -> dict[str, Any]:
    file = run / "results.json"
    if not file.is_file():
        raise MmllmError(f"{run} has no results.json: score it first (`mmllm eval {run}`).")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    return found


def _compared(name: str, runs: Sequence[Path], entries: Sequence[Mapping[str, Any]]) -> Compared:
    one, other = entries
    for word in ("metric", "variant", "files"):
        if one[word] != other[word]:
            raise MmllmError(
                f"{name} was not the same in both: its {word} was {one[word]} in {runs[0]} and {other[word]} in "
                f"{runs[1]}; score one of them again (`mmllm eval`)."
            )
    notes = [f"the {word} differs" for word in ("prompt", "decoding") if one[word] != other[word]]
    if one.get("shots") != other.get("shots"):  # results of older versions have no such word
        notes.append("the shots differ")
    lines = [
        kept(Path(run) / "predictions" / f"{name}.jsonl", entry["key"], failed=True)
        for run, entry in zip(runs, entries, strict=True)
    ]
    asked = [question for question in lines[0] if question in lines[1]]
    if not asked:
        raise MmllmError(f"{name}: the answers in {runs[0]} and {runs[1]} are about no question in common.")
    if not len(asked) == len(lines[0]) == len(lines[1]):
        notes.append(f"{len(asked)} questions of {len(lines[0])} and {len(lines[1])}")
    if "mean" in one and "mean" in other:
        notes.append(
            f"the score is no mean over questions, which is what is compared: it was {one['score']:.3f} in A and "
            f"{other['score']:.3f} in B"
        )
    pairs = [(lines[0][question], lines[1][question]) for question in asked]
    kinds: dict[str, list[tuple[Prediction, Prediction]]] = {}
    for pair in pairs:
        for kind in {pair[0].kind, pair[0].kind.partition(CATEGORY_SEPARATOR)[0]} - {""}:
            kinds.setdefault(kind, []).append(pair)
    rows = [_row(ALL, pairs), *(_row(kind, some) for kind, some in sorted(kinds.items()))]
    changed = [pair for pair in pairs if pair[0].score != pair[1].score]
    return Compared(name, str(one["metric"]), rows, changed, notes)


def _row(name: str, pairs: Sequence[tuple[Prediction, Prediction]]) -> Row:
    first, second = [one.score for one, _ in pairs], [other.score for _, other in pairs]
    # older lines do not say what a question is about: each then counts as about its own
    items = [one.item or one.name for one, _ in pairs]
    gained, lost = (sum(sign * (b - a) > 0 for a, b in zip(first, second, strict=True)) for sign in (1, -1))
    n = len(pairs)
    return Row(
        name, n, sum(first) / n, sum(second) / n, *difference(first, second, items), gained, lost, mcnemar(gained, lost)
    )


def show(found: Sequence[Compared], runs: Sequence[Path], console: Console) -> None:
    """Print a table a benchmark, and some answers that changed."""
    from rich.markup import escape
    from rich.table import Table

    for benchmark in found:
        table = Table("", title=f"{benchmark.name} ({benchmark.metric})", title_justify="left")
        for column in ("n", "A", "B", "B - A", "95 %", "gained", "lost", "p"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in benchmark.rows:
            sure = "bold" if not row.low <= 0 <= row.high else None
            numbers = (
                f"{row.first:.3f}",
                f"{row.second:.3f}",
                f"{row.difference:+.3f}",
                f"{row.low:+.3f} {row.high:+.3f}",
            )
            table.add_row(row.name, str(row.n), *numbers, str(row.gained), str(row.lost), f"{row.p:.2g}", style=sure)
        console.print(table)
        for note in benchmark.notes:
            console.print(f"  {note}")
        for one, other in benchmark.changed[:SHOWN]:
            console.print(
                escape(f"  {one.question}  wanted {one.references[0]!r}: {one.prediction!r} -> {other.prediction!r}")
            )
        if len(benchmark.changed) > SHOWN:
            console.print(f"  ... and {len(benchmark.changed) - SHOWN} more answers that score otherwise")
    console.print(f"A: {runs[0]}, B: {runs[1]}; bold: the interval of the difference leaves 0 out", markup=False)
