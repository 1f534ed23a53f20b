"""An answer as HTML that asks the network for nothing: no pictures, no links, no HTML of the model's own.

And words of others where Streamlit reads Markdown: captions, labels of buttons, messages of servers.

What a model says may have been put into its mouth by a document that it was shown. A picture in it would tell an
address of that document's author what was said, as soon as the reader's browser draws it.
"""

from __future__ import annotations

import re

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


def escaped(text: str) -> str:
    """Return a text that reads as it stands where Streamlit takes Markdown, so that it names no picture to fetch."""
    return re.sub(r"([\\`*_\[\]!<>$~|#])", r"\\\1", text)
