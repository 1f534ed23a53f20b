"""Media as rows of data hold them: a path, a data URL, base64, ``{"bytes", "path"}``, bytes, or a list of these."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmllm.errors import MediaError, SampleError
from mmllm.messages.media import decode_url, refuse_address
from mmllm.modalities import MODALITIES, MODALITY_OF
from mmllm.types import Stored

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{60,}={0,2}\s*")
"""Text that is base64 if it is no path: a path so long has a dot or another sign in it."""
_URL = tuple(f"data:{known.declared}" for known in MODALITIES.values() if known.declared)


class RowMedia:
    """Finds the items of media fields; nothing comes from a network."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where relative paths start."""
        self._folder = folder

    def items(self, field: str, value: Any) -> list[Any]:
        """Return the items of a field, none for null or an empty list; SampleError or MediaError where it holds else.

        Each is a path, bytes or a :class:`~mmllm.types.Stored`.
        """
        # an empty text is how tables write that there is none
        values = [] if value is None or value == "" else value if isinstance(value, list | tuple) else [value]
        return [self.item(one, field) for one in values if one is not None]

    def item(self, value: Any, name: str) -> Any:
        """Return one item; ``name`` is what errors call it."""
        if isinstance(value, Mapping) and "bytes" in value:
            value = value["bytes"] if value["bytes"] is not None else value.get("path")
        elif isinstance(value, Mapping) and {"path", "url"} & value.keys():
            value = value.get("path", value.get("url"))
        if isinstance(value, Stored | bytes):
            return value
        if not isinstance(value, str) or not value:
            raise SampleError(
                f"{name} holds {_shown(value)}; it is a path, a data URL, base64, {{'bytes', 'path'}} or a list of "
                "these"
            )
        refuse_address(value)
        if value.startswith("data:"):
            return decode_url(value, "input_audio" if name == "input_audio" else "a data URL")
        path = self._folder / value.removeprefix("file://")
        if _BASE64.fullmatch(value) and not _is_file(path):
            return _decoded(value, name)
        return path

    def holds(self, value: Any, beyond: Collection[str] = (), there: bool = True) -> bool:
        """Whether a field's value is media: bytes, a data URL, the path of a media file, or a list of such.

        ``beyond``: items as texts; a path that is one of them does not count. ``there``: the file must be there.
        """
        if isinstance(value, list | tuple):
            return any(self.holds(one, beyond, there) for one in value[:8])
        if isinstance(value, Mapping) and {"bytes", "path"} >= value.keys() >= {"bytes"}:
            return value["bytes"] is not None or self.holds(value.get("path"), beyond, there)
        if isinstance(value, Stored | bytes):
            return True
        if not isinstance(value, str) or len(value) > 4096:
            return isinstance(value, str) and value.startswith(_URL)
        # the ending first: a file is looked for in few rows
        if value.rpartition("#")[0].rpartition(".")[2].lower() in MODALITY_OF:
            value = value.rpartition("#")[0]
        if value.rpartition(".")[2].lower() not in MODALITY_OF:
            return value.startswith(_URL)
        path = self._folder / value
        return str(path) not in beyond and (_is_file(path) or not there)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a file system's names, or with a zero in it
        return False


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise MediaError(f"{name} is neither a file nor base64 that can be read ({error}): {text[:40]}...") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
