"""One page about a run: parts, curves, scores and answers; styles inside, pictures as data URLs, no scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.inspection.page_style import STYLE
from mmllm.reporting.curves import curve
from mmllm.reporting.media import thumbnail
from mmllm.reporting.run import Run, questions, read

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Question
    from mmllm.evaluation.predictions import Prediction

SHOWN = 6
"""Right and wrong answers of a benchmark that are shown, of each."""
PLACES = ("path", "model")
"""Arguments that say where a part comes from."""
MORE = """
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.answers article { margin: 0; } .answers p { margin: .4rem 0 0; font-size: .9rem; }
.scroll { overflow-x: auto; } tr.kind td:first-child { padding-left: 1rem; color: var(--soft); }
"""


def report(folder: Path, out: Path) -> str:
    """Write the page about a run and return a sentence that says so; MmllmError where one cannot be read or written."""
    run = read(folder)
    text = page(run)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MmllmError(f"{out}: the page cannot be written: {error.strerror}") from error
    scored = ", ".join(run.results.get("benchmarks", {})) or "not scored yet: `mmllm eval` does"
    return f"{out}: {run.recipe.name}, {run.checkpoint}; {scored} ({len(text) / 1e6:.1f} MB)"


def page(run: Run) -> str:
    """The whole page."""
    title = escape(f"{run.recipe.name}: a run of mmllm")
    body = "\n".join([*_head(run), *_parts(run), *_training(run), *_scores(run), *_answers(run)])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}{MORE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(run: Run) -> Iterator[str]:
    facts = [run.checkpoint]
    if run.results:
        found = run.results["machine"]
        facts += [
            f"weights {run.results['checkpoint'][:12]}",
            f"scored on {found['device']}, {found['platform']}, torch {found['torch']}",
        ]
    yield f"<header><p>mmllm report</p><h1>{escape(run.recipe.name)}</h1>"
    yield f"<ul class=facts>{''.join(f'<li>{escape(str(fact))}</li>' for fact in facts)}</ul></header>"


def _parts(run: Run) -> Iterator[str]:
    rows = [("llm", "", str(run.recipe.llm.path), run.learned.get("llm"))]
    for section in ("encoders", "connectors"):
        for key, part in getattr(run.recipe, section).items():
            where = next((str(part.args[word]) for word in PLACES if part.args.get(word)), "")
            source = ", ".join(part.encoders)
            rows.append((f"{section}.{key}", part.type, where or source, run.learned.get(f"{section}.{key}")))
    yield "<section><h2>Parts</h2>"
    cells = [(name, type, where, "frozen" if n is None else f"{n:,}") for name, type, where, n in rows]
    yield _table(("part", "type", "from", "learned parameters"), cells, numbers=(3,))
    drawn = ((name, part.type, str(part.args.get("path", ""))) for name, part in run.recipe.data.items())
    yield f"<h3>Data</h3>{_table(('entry', 'type', 'from'), list(drawn))}</section>"


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
    yield _table(head, rows, numbers=range(2, 8), kinds=kinds)
    yield "</div><p class=summary>By a rule: the best of four that read only the question.</p></section>"


def _numbers(entry: Mapping[str, Any], rule: float | None) -> tuple[str, ...]:
    # results of older versions have no interval and no blind score of a kind
    low, high = entry.get("interval") or (None, None)
    between = "" if low is None else f"{low:.3f} to {high:.3f}"
    blind, ruled = ("" if one is None else f"{one:.3f}" for one in (entry.get("blind"), rule))
    return f"{entry['score']:.3f}", between, blind, ruled, f"{entry['n']:,}"


def _answers(run: Run) -> Iterator[str]:
    asked = questions(run) if run.answers else {}
    for name, answers in run.answers.items():
        right = [one for one in answers if one.score >= 1]
        wrong = [one for one in answers if one.score < 1]
        yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2>'
        for title, some in (("Wrong", wrong), ("Right", right)):
            if some:
                yield f"<h3>{title}: {len(some):,} of {len(answers):,}</h3><div class=answers>"
                yield from (_answer(one, asked.get(name, {}).get(one.name)) for one in _spread(some))
                yield "</div>"
        yield "</section>"


def _spread(some: Sequence[Prediction]) -> list[Prediction]:
    """A few of them, evenly over the file, so that no kind that stands first fills the page."""
    step = max(1, len(some) // SHOWN)
    return list(some[::step][:SHOWN])


def _answer(one: Prediction, question: Question | None) -> str:
    box = one.references if len(one.references) == 4 and all(isinstance(n, float) for n in one.references) else None
    media = [] if question is None else [(key, item) for key, items in question.sample.media.items() for item in items]
    shown = "".join(thumbnail(key, item, tuple(box) if box is not None else None) for key, item in media[:4])
    wanted = (
        "a box, drawn" if box is not None and shown else ", ".join(map(str, dict.fromkeys(map(str, one.references))))
    )
    said = escape(one.prediction) if one.error is None else f"<em>could not be asked: {escape(one.error)}</em>"
    return (
        f"<article>{shown}<p>{escape(one.question)}</p><p><strong>{said or '<em>nothing</em>'}</strong></p>"
        f"<p class=summary>wanted {escape(wanted)}{f'; {escape(one.kind)}' if one.kind else ''}</p></article>"
    )


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), kinds: Sequence[bool] = ()
) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if column in numbers else ''}>{escape(text)}</{tag}>" for column, text in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=kind' if kinds and kinds[number] else ''}>{cells(row, 'td')}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
