"""What all pages of this room have in common: the frame with its styles, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.inspection.page_style import STYLE

MORE = """
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.answers article { margin: 0; } .answers p { margin: .4rem 0 0; font-size: .9rem; }
.answers small { display: block; }
.scroll { overflow-x: auto; } tr.kind td:first-child { padding-left: 1rem; color: var(--soft); }
"""


def page(command: str, title: str, body: str) -> str:
    """A whole page: styles inside, no scripts."""
    named = escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{named}</title>\n<style>{STYLE}{MORE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><p>mmllm {command}</p><h1>{named}</h1></header>\n{body}\n</main>\n</body>\n</html>\n"
    )


def write(out: Path, text: str) -> None:
    """Write a page; MmllmError where that cannot be."""
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MmllmError(f"{out}: the page cannot be written: {error.strerror}") from error


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), kinds: Sequence[bool] = ()
) -> str:
    """A table; ``numbers``: columns set to the right, ``kinds``: rows that are kinds of the one above."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if column in numbers else ''}>{escape(text)}</{tag}>" for column, text in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=kind' if kinds and kinds[number] else ''}>{cells(row, 'td')}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
