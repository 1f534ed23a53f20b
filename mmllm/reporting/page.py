"""One page about a run: parts, curves, scores and answers; styles inside, pictures as data URLs, no scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.reporting import layout
from mmllm.reporting.asked import asked
from mmllm.reporting.curves import curve
from mmllm.reporting.gallery import SHOWN, article, spread
from mmllm.reporting.layout import table
from mmllm.reporting.run import Run, entries_of, read

if TYPE_CHECKING:
    from mmllm.evaluation.predictions import Prediction

PLACES = ("path", "model")
"""Arguments that say where a part comes from."""


def report(folder: Path, out: Path) -> str:
    """Write the page about a run and return a sentence that says so; MmllmError where one cannot be read or written."""
    run = read(folder)
    text = page(run)
    layout.write(out, text)
    scored = ", ".join(run.results.get("benchmarks", {})) or "not scored yet: `mmllm eval` does"
    return f"{out}: {run.recipe.name}, {run.checkpoint}; {scored} ({len(text) / 1e3:,.0f} kB)"


def page(run: Run) -> str:
    """The whole page."""
    body = "\n".join([*_head(run), *_parts(run), *_training(run), *_scores(run), *_answers(run)])
    return layout.page("report", run.recipe.name, body)


def _head(run: Run) -> Iterator[str]:
    facts = [run.checkpoint]
    if run.results:
        found = run.results["machine"]
        facts += [
            f"weights {run.results['checkpoint'][:12]}",
            f"scored on {found['device']}, {found['platform']}, torch {found['torch']}",
        ]
    yield f"<ul class=facts>{''.join(f'<li>{escape(str(fact))}</li>' for fact in facts)}</ul>"


def _parts(run: Run) -> Iterator[str]:
    rows = [("llm", "", str(run.recipe.llm.path), run.learned.get("llm"))]
    for section in ("encoders", "connectors"):
        for key, part in getattr(run.recipe, section).items():
            where = next((str(part.args[word]) for word in PLACES if part.args.get(word)), "")
            source = ", ".join(part.encoders)
            rows.append((f"{section}.{key}", part.type, where or source, run.learned.get(f"{section}.{key}")))
    yield "<section><h2>Parts</h2>"
    cells = [(name, type, where, "frozen" if n is None else f"{n:,}") for name, type, where, n in rows]
    yield table(("part", "type", "from", "learned parameters"), cells, numbers=(3,))
    drawn = ((name, part.type, str(part.args.get("path", ""))) for name, part in run.recipe.data.items())
    yield f"<h3>Data</h3>{table(('entry', 'type', 'from'), list(drawn))}</section>"


def _training(run: Run) -> Iterator[str]:
    if not run.metrics:
        return
    yield "<section><h2>Training</h2>"
    for stage, rows in run.metrics.items():
        steps = [row["step"] for row in rows]
        samples, seconds = sum(row["samples"] for row in rows), sum(row["seconds"] for row in rows)
        tokens = sum(row["tokens"] for row in rows)
        words = f"{len(steps):,} steps, {samples:,} samples, {tokens:,} tokens, {seconds:,.0f} s"
        bad = sum(row["bad"] for row in rows)
        yield f"<h3>{escape(stage)}</h3><p class=summary>{words}{f', {bad} bad samples left out' if bad else ''}</p>"
        rates = {name for row in rows for name in row["lr"]}
        series = {"loss": [row["loss"] for row in rows], "tokens a second": [row["tokens_per_second"] for row in rows]}
        series |= {f"rate of {name}": [row["lr"].get(name, 0.0) for row in rows] for name in sorted(rates)}
        drawings = "".join(
            f"<div>{drawn}</div>" for name, values in series.items() if (drawn := curve(name, steps, values))
        )
        yield f"<div class=survey>{drawings}</div>"
    yield "</section>"


def _scores(run: Run) -> Iterator[str]:
    entries: Mapping[str, Any] = run.results.get("benchmarks", {})
    if not entries:
        return
    rows, kinds = [], []
    for name, entry in entries.items():
        rule = entry.get("rule")
        metric = f"{entry['metric']} {entry['variant'] or ''}".strip()
        rows.append((name, metric, *_numbers(entry, None if rule is None else rule["score"]), str(entry["unparsed"])))
        kinds.append(False)
        for kind, found in entry["kinds"].items():
            rows.append((kind, "", *_numbers(found, found.get("rule")), ""))
            kinds.append(True)
    yield "<section><h2>Scores</h2><div class=scroll>"
    head = ("benchmark", "metric", "score", "95 %", "without media", "by a rule", "n", "unparsed")
    yield table(head, rows, numbers=range(2, 8), kinds=kinds)
    yield "</div><p class=summary>By a rule: the best of four that read only the question.</p></section>"


def _numbers(entry: Mapping[str, Any], rule: float | None) -> tuple[str, ...]:
    # results of older versions have no interval and no blind score of a kind
    low, high = entry.get("interval") or (None, None)
    between = "" if low is None else f"{low:.3f} to {high:.3f}"
    blind, ruled = ("" if one is None else f"{one:.3f}" for one in (entry.get("blind"), rule))
    return f"{entry['score']:.3f}", between, blind, ruled, f"{entry['n']:,}"


def _answers(run: Run) -> Iterator[str]:
    known = asked(entries_of(run), {name: [one.name for one in some] for name, some in run.answers.items()})
    for name, answers in run.answers.items():
        right = [one for one in answers if one.score >= 1]
        wrong = [one for one in answers if one.score < 1]
        sure = sorted((one for one in wrong if one.confidence is not None), key=_confidence, reverse=True)
        groups = (
            (f"Wrong: {len(wrong):,} of {len(answers):,}", spread(wrong)),
            ("Wrong, and most sure of it", sure[:SHOWN]),
            (f"Right: {len(right):,} of {len(answers):,}", spread(right)),
        )
        yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2>'
        for title, some in groups:
            if some:
                yield f"<h3>{title}</h3><div class=answers>"
                yield from (article(known.get(name), (one,)) for one in some)
                yield "</div>"
        yield "</section>"


def _confidence(one: Prediction) -> float:
    return one.confidence or 0.0
