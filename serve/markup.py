"""An answer as HTML that asks the network for nothing: no pictures, no links, no HTML of the model's own.

And words of others where Streamlit reads Markdown: captions, labels of buttons, messages of servers.

What a model says may have been put into its mouth by a document that it was shown. A picture in it would tell an
address of that document's author what was said, as soon as the reader's browser draws it.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from markdown_it import MarkdownIt

# shown as they were written: Markdown's pictures and links, and HTML
_INERT = ["image", "link", "autolink", "reference", "html_inline", "html_block"]
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(_INERT)


_STYLES = {
    "<pre>": '<pre style="white-space:pre-wrap;overflow-wrap:anywhere">',
    "<table>": '<table style="display:block;overflow-x:auto">',
    "<td>": '<td style="padding:0.2em 0.8em">',
    "<th>": '<th style="padding:0.2em 0.8em;text-align:left">',
}
"""What keeps long lines and wide tables within a narrow page; a tag that an answer writes itself is escaped."""


def inert(text: str) -> str:
    """Return Markdown as HTML: paragraphs, lists, tables, emphasis and code; whatever names an address stays text."""
    html: str = _MARKDOWN.render(text)
    for tag, styled in _STYLES.items():
        html = html.replace(tag, styled)
    return f'<div style="overflow-wrap:anywhere">{html}</div>'


OPEN = 3
"""Levels of a tree that are open at first."""
DEEPEST = 40


def tree(value: Any, level: int = 0) -> str:
    """Return a JSON value as HTML: objects and lists that open and close, an address in it no link."""
    if not isinstance(value, dict | list) or not value or level >= DEEPEST:
        return f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    lines = "".join(f"<li>{escape(str(name))}: {tree(one, level + 1)}</li>" for name, one in pairs)
    kind = "fields" if isinstance(value, dict) else "items"
    summary = f"<summary>{len(value)} {kind if len(value) > 1 else kind[:-1]}</summary>"
    shown = " open" if level < OPEN else ""
    return f'<details{shown}>{summary}<ul style="margin:0;overflow-wrap:anywhere">{lines}</ul></details>'


def escaped(text: str) -> str:
    """Return a text that reads as it stands where Streamlit takes Markdown, so that it names no picture to fetch."""
    return re.sub(r"([\\`*_\[\]!<>$~|#])", r"\\\1", text)
