"""Whether a media item is there, without decoding it; for every row of a survey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.errors import MediaError


def check_file(item: Any, modalities: Sequence[str]) -> None:
    """Look for an item's file, and read the head of a picture; nothing of what lies in memory or in a larger file.

    Raises:
        MediaError: there is no such file, it is empty, or it is no picture.
    """
    if not isinstance(item, Path):
        return
    path = _file(item)
    if path is None:
        raise MediaError(f"{item} does not exist")
    if path.is_file() and not path.stat().st_size:
        raise MediaError(f"{item} is empty")
    if "image" in modalities:
        _check_picture(path)


def _file(item: Path) -> Path | None:
    """The file or folder of a path, which may end in a node or a part of a clip; None where it is missing."""
    if item.exists():
        return item
    whole = Path(str(item).rpartition("#")[0]) if "#" in item.name else None
    return whole if whole is not None and whole.exists() else None


def _check_picture(path: Path) -> None:
    from PIL import Image

    from mmllm.processors.image import FORMATS

    try:
        with Image.open(path, formats=FORMATS):
            return
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"image {path} cannot be opened as one of {', '.join(FORMATS)}") from error
