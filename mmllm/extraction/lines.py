"""Lines of an extraction: one document each, kept in a file that a stopped extraction goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmllm import __version__
from mmllm.errors import MmllmError
from mmllm.evaluation import digests


@dataclass(frozen=True)
class Line:
    """What came of one document."""

    file: str
    """As it was given."""
    value: Any
    """The object; None: there is none, ``error`` says why."""
    fields: dict[str, dict[str, Any]] | None
    """JSON Pointer of a value -> ``probability`` of its tokens, and ``boxes``: every place where it was found, as
    fractions of the picture (left, top, right, bottom); empty: nowhere, None: it was not looked for."""
    example: str | None
    """Picture of the document that stood in front of it."""
    error: dict[str, str] | None = None
    """``code`` and ``message``."""
    key: str = ""
    """Digest of model, schema, question and examples: a line of another key is not this extraction's."""
    content: str = ""
    """Digest of the files that it was read from."""

    @classmethod
    def failed(cls, file: Path, code: str, message: str, example: Path | None = None) -> Line:
        """A document of which there is no object."""
        return cls(str(file), None, None, None if example is None else str(example), {"code": code, "message": message})

    def marked(self, key: str, content: str) -> Line:
        """The line with what it is found by."""
        return replace(self, key=key, content=content)

    def text(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def key_of(value: Any) -> str:
    """Digest of a value and the version of this package."""
    return digests.of_value([__version__, value])


def content_of(files: Sequence[Path]) -> str:
    """Digest of the content of files; empty where one cannot be read."""
    try:
        return digests.of_value(digests.of_files(files))
    except OSError:
        return ""


def kept(path: Path, key: str, contents: Mapping[str, str]) -> dict[str, Line]:
    """File -> its line in ``path``: of files that are not asked for, and of those that are the same, without an error.

    Args:
        path: of the lines; there may be none.
        key: of this extraction.
        contents: file that is asked for -> its digest.

    Raises:
        MmllmError: the file holds something else, or lines of other settings; it is not written over.
    """
    if not path.exists():
        return {}
    found = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(lines, 1):
        try:
            line = Line(**json.loads(text))
        except (ValueError, TypeError) as error:
            if not text or number == len(lines):  # the last may be cut off by a kill
                continue
            raise MmllmError(f"--out {path}: line {number} is none of an extraction; give another file.") from error
        if line.key != key:
            raise MmllmError(
                f"--out {path}: line {number} is of another model, schema, question or examples; give another file, or "
                "remove this one."
            )
        if line.file not in contents or (line.error is None and contents[line.file] == line.content):
            found[line.file] = line
    return found


def write(path: Path, lines: Iterable[Line]) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(line.text() for line in lines)
    os.replace(new, path)


def in_order(lines: Mapping[str, Line], files: Sequence[Path]) -> list[Line]:
    """The lines of files, in their order."""
    return [lines[str(file)] for file in files]
