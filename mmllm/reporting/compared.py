"""`mmllm compare --html`: two runs on the same questions, by kind, and the answers that changed, with their media."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mmllm.evaluation.compare import Compared, Row
from mmllm.evaluation.predictions import Prediction
from mmllm.reporting import layout
from mmllm.reporting.asked import Asked, asked
from mmllm.reporting.gallery import article

SHOWN = 12
"""Changed answers of a benchmark that are shown, each of those gained and those lost."""

Pair = tuple[Prediction, Prediction]


def compare_page(found: Sequence[Compared], runs: Sequence[Path], out: Path) -> str:
    """Write the page about a comparison and return a sentence that says so; MmllmError where it cannot be written."""
    shown = {one.name: [pair for group in _flipped(one) for pair in group[1]] for one in found}
    entries = {name: entry["part"] for run in runs for name, entry in _entries(run).items() if "part" in entry}
    known = asked(entries, {name: [one.name for one, _ in pairs] for name, pairs in shown.items()})
    facts = f"<ul class=facts><li>A: {escape(str(runs[0]))}</li><li>B: {escape(str(runs[1]))}</li></ul>"
    body = [facts, *(line for one in found for line in _benchmark(one, known.get(one.name)))]
    text = layout.page("compare", f"{_name(runs[0])} and {_name(runs[1])}", "\n".join(body))
    layout.write(out, text)
    changed = sum(len(one.changed) for one in found)
    return (
        f"{out}: {', '.join(one.name for one in found)}; {changed:,} answers score otherwise ({len(text) / 1e3:.0f} kB)"
    )


def _name(run: Path) -> str:
    return run.resolve().name


def _entries(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text(encoding="utf-8"))["benchmarks"])


def _benchmark(one: Compared, known: Asked | None) -> Iterator[str]:
    yield f"<section><h2>{escape(one.name)}</h2><p class=summary>{escape(one.metric)}</p><div class=scroll>"
    head = ("", "n", "A", "B", "B - A", "95 %", "gained", "lost", "p")
    rows = [_cells(row) for row in one.rows]
    yield layout.table(head, rows, numbers=range(1, 9), kinds=[bool(number) for number in range(len(rows))])
    yield "</div><p class=summary>p: by chance gained and lost differ as much (McNemar's exact test).</p>"
    yield from (f"<p class=summary>{escape(note)}</p>" for note in one.notes)
    for title, pairs, total in _flipped(one):
        if pairs:
            yield f"<h3>{title}: {total:,}</h3><div class=answers>"
            yield from (article(known, pair, ("A", "B")) for pair in pairs)
            yield "</div>"
    yield "</section>"


def _cells(row: Row) -> tuple[str, ...]:
    scores = (f"{row.first:.3f}", f"{row.second:.3f}", f"{row.difference:+.3f}", f"{row.low:+.3f} to {row.high:+.3f}")
    return row.name, f"{row.n:,}", *scores, str(row.gained), str(row.lost), f"{row.p:.2g}"


def _flipped(one: Compared) -> list[tuple[str, list[Pair], int]]:
    """Title, some pairs evenly over the file, and how many there are, of the answers gained in B and those lost."""
    gained = [pair for pair in one.changed if pair[1].score > pair[0].score]
    lost = [pair for pair in one.changed if pair[1].score < pair[0].score]
    return [
        (title, pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN], len(pairs))
        for title, pairs in (("Gained in B", gained), ("Lost in B", lost))
    ]
