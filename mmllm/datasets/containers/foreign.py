"""Files that hold no rows as they are: pointers of Git LFS, UTF-16 texts, tables of other programs; and what to do.

``opening.py`` asks before a container opens a file, whose own error would only say what it did not find.
"""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from mmllm.errors import MmllmError

PARQUET = (".parquet", ".pq")
"""Endings of Parquet files."""
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz")
_POINTER = b"version https://git-lfs.github.com/spec/"
_PANDAS = "import pandas; pandas.{read}({path!r}).to_parquet({to!r})"
_ARROW = "import datasets; datasets.load_dataset('arrow', data_files={path!r}, split='train').to_parquet({to!r})"
_FOREIGN = {
    ".arrow": ("an Arrow file", _ARROW),
    ".feather": ("a Feather file", _PANDAS.replace("{read}", "read_feather")),
    ".orc": ("an ORC file", _PANDAS.replace("{read}", "read_orc")),
    ".xlsx": ("an Excel workbook", _PANDAS.replace("{read}", "read_excel")),
    ".xls": ("an Excel workbook", _PANDAS.replace("{read}", "read_excel")),
    ".ods": ("a workbook", _PANDAS.replace("{read}", "read_excel")),
}
"""Ending -> what such a file is, and the Python that makes Parquet of it."""
_PICKLED = (".pkl", ".pickle", ".pt", ".pth")


def check_file(path: Path) -> None:
    """MmllmError where ``path`` is of no kind that is read, with the cause and what to do."""
    ending = path.suffix.lower()
    if ending in _COMPRESSED:
        raise MmllmError(f"{path} is compressed, and rows are read from the middle of a file; unpack it first")
    if is_pointer(path):
        raise MmllmError(f"{path} holds a pointer of Git LFS, not the data; fetch them: `git lfs pull` in its folder")
    if ending in _PICKLED:
        raise MmllmError(
            f"{path} is pickled, which may run any code and is not read; where you trust it, write its rows as JSON "
            "lines or Parquet"
        )
    if ending in _FOREIGN:
        kind, code = _FOREIGN[ending]
        code = code.format(path=str(path), to=str(path.with_suffix(".parquet")))
        saved = "; of a folder that save_to_disk wrote name the folder" if ending == ".arrow" else ""
        raise MmllmError(f'{path} is {kind}, which is not read; make Parquet of it: python -c "{code}"{saved}')


def check_text(path: Path) -> None:
    """MmllmError where a file of text is UTF-16."""
    head = _head(path, 4)
    # without a mark every second byte of its first signs, [ or { or a letter, is zero
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head[1:4:2] == b"\0\0" or head[:3:2] == b"\0\0":
        old, new = (shlex.quote(str(one)) for one in (path, path.with_name(f"{path.stem}-utf8{path.suffix}")))
        raise MmllmError(f"{path} is UTF-16, and text is read as UTF-8: iconv -f UTF-16 -t UTF-8 {old} > {new}")


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in place of one that was not fetched."""
    return _head(path, len(_POINTER)) == _POINTER


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)
