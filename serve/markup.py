"""An answer as HTML that asks the network for nothing: no pictures, no links, no HTML of the model's own.

What a model says may have been put into its mouth by a document that it was shown. A picture in it would tell an
address of that document's author what was said, as soon as the reader's browser draws it.
"""

from __future__ import annotations

from markdown_it import MarkdownIt

# shown as they were written: Markdown's pictures and links, and HTML
_INERT = ["image", "link", "autolink", "reference", "html_inline", "html_block"]
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(_INERT)


def inert(text: str) -> str:
    """Return Markdown as HTML: paragraphs, lists, tables, emphasis and code; whatever names an address stays text."""
    return _MARKDOWN.render(text)
