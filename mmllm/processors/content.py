"""What a media item is made of, so that equal items can be known without being decoded; asked by ``features``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Content:
    """All that decides what ``Processor.read`` gives of an item: equal contents give equal tensors."""

    files: tuple[Path, ...] = ()
    """Files by whose bytes it is known; where they lie does not count."""
    data: bytes = b""
    """Bytes that lie in no file of their own. A file and its bytes are the same content."""
    words: str = ""
    """Which part of them is meant, or what else counts: ``#17``, a time, an array's shape."""


def of_file(media: Any, words: str = "") -> Content | None:
    """Content of a path or of a file's bytes; None of anything else and of a path that is no file."""
    if isinstance(media, bytes):
        return Content(data=media, words=words)
    if not isinstance(media, str | Path):
        return None
    try:
        return Content((Path(media),), words=words) if Path(media).is_file() else None
    except (OSError, ValueError):  # a text that is too long for a path, or no path at all
        return None
