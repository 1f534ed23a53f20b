"""Hook of mkdocs: a link that leaves docs/ works on a forge, where all files are; on the site it is shown as a path."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")
"""``[text](../path)``; no page lies in a folder below docs/."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the links of one page."""
    return OUTSIDE.sub(_shown, markdown)


def _shown(found: re.Match[str]) -> str:
    text, path = found.groups()
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"
