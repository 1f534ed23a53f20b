"""The tables of a published set in a folder: official ones by their names, else the Parquet parts of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmllm.datasets.containers.base import Rows
from mmllm.datasets.containers.csv_rows import CsvRows
from mmllm.datasets.containers.opening import open_files, open_rows
from mmllm.errors import MmllmError

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


def rows_of(path: str, named: str | None, split: str, config: str, tables: Sequence[Sequence[str]]) -> Rows:
    """Rows of a set.

    Args:
        path: folder of the set, one file of it, or ``hf://datasets/OWNER/NAME``.
        named: the split that was asked for by name, if one was: a single file has none.
        split: that one, or the set's own.
        config: of a set that has several, else empty.
        tables: official tables, tried first, each the files of one form; ``{split}`` and ``{config}`` stand for theirs.

    Raises MmllmError: nothing is there, a part of the Parquet files is missing, or a file cannot be read.
    """
    if "://" in path:
        return open_rows(path, split, False, config or None)
    where = Path(path)
    if where.is_file():
        if named not in (None, where.stem.partition("-")[0]):
            raise MmllmError(f"{where} is one file, and split: {named} is of the folder that holds it")
        return _opened([where], str(where))
    if not where.is_dir():
        raise MmllmError(f"there is no {where}")
    forms = [[where / name.format(split=split, config=config) for name in form] for form in tables]
    for form in forms:
        there = [file.is_file() for file in form]
        if all(there):
            return _opened(form, ", ".join(map(str, form)))
        if any(there):
            raise MmllmError(f"{form[there.index(False)]} is missing beside {form[there.index(True)].name}")
    files = _parquet(where, split, config)
    if not files:
        inside = f"{config}/" if config else "data/"
        known = [" and ".join(str(file.relative_to(where)) for file in form) for form in forms]
        wanted = " or ".join([*known, f"{inside}{split}-00000-of-00001.parquet"])
        raise MmllmError(f"{where} has no {wanted} (or {split} in more parts)")
    return _opened(files, f"{where}, split {split}")


def _opened(files: Sequence[Path], name: str) -> Rows:
    # TGIF-QA's tables are named .csv and have tabs
    tabbed = files[0].suffix == ".csv" and "\t" in _first_line(files[0])
    rows = CsvRows(files[0], "\t") if tabbed else open_files(files, name)
    if not len(rows):
        raise MmllmError(f"{name} holds no row")
    return rows


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.readline()


def _parquet(folder: Path, split: str, config: str) -> list[Path]:
    """Parquet files of a split in the layouts of the hub, all parts of it."""
    for place in (folder / config, folder / "data", folder) if config else (folder / "data", folder):
        for pattern in (f"{split}-*.parquet", f"{split}.parquet", f"{split}/*.parquet"):
            files = sorted(place.glob(pattern))
            if files:
                _check_complete(files)
                return files
    return []


def _check_complete(files: Sequence[Path]) -> None:
    """MmllmError where a part is missing: its questions would silently not be asked."""
    parts = [match for file in files if (match := _PART.search(file.name))]
    if not parts:
        return
    count, there = int(parts[0][2]), {int(match[1]) for match in parts}
    missing = [number for number in range(count) if number not in there]
    if missing:
        name = files[0].name.replace(parts[0][0], f"-{missing[0]:05d}-of-{count:05d}.parquet")
        raise MmllmError(f"{files[0].parent} has {len(there)} of {count} parts; {name} is missing")
