"""Writes a report as one HTML file that needs nothing else: styles inside, pictures as data URLs, no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError
from mmllm.inspection.chart import chart
from mmllm.inspection.findings import findings, scope, spreads
from mmllm.inspection.page_style import STYLE
from mmllm.inspection.report import Entry, Report
from mmllm.inspection.rows import ShownRow
from mmllm.inspection.survey import Survey
from mmllm.inspection.tokens import Piece

if TYPE_CHECKING:
    from mmllm.inspection.views import View

SMALL = 128
"""A narrower picture is shown larger, its pixels as squares."""
SIGNS = {"good": "✓", "note": "•", "bad": "✗"}


def write(report: Report, path: Path) -> str:
    """Write the page and return a sentence that says so; MmllmError where it cannot be written."""
    text = page(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MmllmError(f"{path}: the page cannot be written: {error.strerror}") from error
    n_rows = sum(len(entry.rows) for entry in report.entries)
    return f"{path}: {n_rows:,} rows of {', '.join(entry.key for entry in report.entries)} ({len(text) / 1e6:.1f} MB)"


def page(report: Report) -> str:
    """Return the whole page."""
    title = escape(f"{report.name}: what the model sees")
    body = "\n".join([*_head(report), *(part for entry in report.entries for part in _entry(entry))])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> Iterator[str]:
    yield f"<header><p>mmllm inspect</p><h1>{escape(report.name)}</h1>"
    facts = [f"tokens of <code>{escape(report.llm)}</code>, context {report.context:,}"]
    facts += [escape(line) for line in report.encoders]
    yield f"<ul class=facts>{''.join(f'<li>{fact}</li>' for fact in facts)}</ul>"
    for sentence in report.notes:
        yield f'<p class="finding note"><span class=sign>•</span>{escape(sentence)}</p>'
    if len(report.entries) > 1:
        links = (f'<a href="#{escape(one.key)}">{escape(one.key)}</a>' for one in report.entries)
        yield f"<nav>{''.join(links)}</nav>"
    yield (
        '<p class="tokens legend"><span class="t learned">learned</span><span class=t>only read</span>'
        '<span class="t control">control token</span><span class="t media">&lt;media&gt; x places</span></p></header>'
    )


def _entry(entry: Entry) -> Iterator[str]:
    used = f"drawn from in {', '.join(entry.stages)}" if entry.stages else "drawn from in no stage"
    yield f'<section id="{escape(entry.key)}"><h2>{escape(entry.key)}</h2>'
    yield f"<p class=summary>{escape(entry.summary)}; {escape(used)}<br><code>{escape(entry.source)}</code></p>"
    yield from _survey(entry.survey)
    for row in entry.rows:
        yield from _row(row)
    yield "</section>"


def _survey(survey: Survey) -> Iterator[str]:
    yield f"<div class=survey><div><h3>Of {escape(scope(survey))}</h3>"
    for finding in findings(survey):
        sign = f"<span class=sign>{SIGNS[finding.level]}</span>"
        yield f'<div class="finding {finding.level}">{sign}{escape(finding.title)}'
        if finding.details:
            yield f"<ul>{''.join(f'<li>{escape(detail)}</li>' for detail in finding.details)}</ul>"
        yield "</div>"
    yield "</div>"
    if survey.lengths:
        yield f"<div><h3>Length in tokens</h3>{chart(survey.lengths, survey.context)}{_table(spreads(survey))}</div>"
    yield "</div>"


def _table(lines: list[tuple[str, ...]]) -> str:
    heads, *rest = lines
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in heads)
    rows = "".join(
        f"<tr><th scope=row>{escape(line[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in line[1:])}</tr>"
        for line in rest
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _row(row: ShownRow) -> Iterator[str]:
    yield f"<article><h3>row {row.number:,} <small>{escape(row.name)}</small></h3>"
    if row.problem:
        skipped = "; training skips it" if row.pieces else ""
        yield f'<p class="finding bad"><span class=sign>✗</span>{escape(row.problem)}{skipped}</p>'
    if row.pieces:
        counts = f"{row.n_tokens:,} tokens, {row.n_media:,} of them media; {row.n_labels:,} labels"
        yield f"<p class=counts>{counts}</p><p class=tokens>{tokens(row.pieces)}</p>"
    for message in row.messages:
        yield f"<p class=said><b>{escape(message.role)}</b> {escape(message.text)}</p>"
    for view in row.views:
        yield from _view(view)
    yield "</article>"


def tokens(pieces: Iterable[Piece]) -> str:
    """Return tokens as spans whose classes say what they are: learned, control, media."""
    return "".join(_token(piece) for piece in pieces)


def _token(piece: Piece) -> str:
    names = ["t", *(["learned"] if piece.learned else []), *([piece.kind] if piece.kind != "text" else [])]
    if piece.kind == "media":
        return f'<span class="{" ".join(names)}">{escape(piece.text)} x {piece.n_tokens:,}</span>'
    shown = "".join(letter if letter.isprintable() else _named(letter) for letter in piece.text)
    breaks = "<br>" * piece.text.count("\n")
    ids = " ".join(map(str, piece.ids))
    return f'<span class="{" ".join(names)}" title="{ids}">{escape(shown)}</span>{breaks}'


def _named(letter: str) -> str:
    """A sign for a character that cannot be seen, some of which HTML does not even allow."""
    return {"\n": "↵", "\t": "→"}.get(letter, letter.encode("unicode_escape", "surrogatepass").decode("ascii"))


def _view(view: View) -> Iterator[str]:
    from mmllm.drawing.data_url import data_url

    yield f"<div class=view><p><b>{escape(view.title)}</b> {escape(view.facts)}</p><div class=pictures>"
    for caption, picture in view.pictures:
        under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        alt = escape(f"{view.title} {caption}".strip(), quote=True)
        size = f'width="{picture.width}" height="{picture.height}"'
        small = " class=small" if picture.width < SMALL else ""
        yield f'<figure><img{small} src="{data_url(picture)}" {size} alt="{alt}">{under}</figure>'
    yield "</div>"
    if view.text and not view.pictures:
        yield f"<pre>{escape(view.text)}</pre>"
    elif view.text and any(letter.isalpha() for letter in view.text):
        yield f"<details><summary>texts</summary><pre>{escape(view.text)}</pre></details>"
    yield "</div>"
