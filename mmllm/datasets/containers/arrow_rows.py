"""Rows of Arrow tables: Parquet files, here or far away, and datasets of the ``datasets`` library.

Columns of media (bytes, or a struct of bytes and a path) are not read with a row: each item is a :class:`Cell`, which
reads its bytes where they are needed, on the one rank that needs them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.datasets.containers.base import Row, Rows
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.types import Stored

if TYPE_CHECKING:
    import datasets
    import pyarrow
    from pyarrow import parquet

_KEPT = 1 << 29  # bytes of row groups that are remembered: a window of shuffled groups, see batches/mixture.py


@dataclass(frozen=True)
class Cell(Stored):
    """One media item of a table."""

    source: str
    """What its rows are called."""
    index: int
    column: str
    item: int | None
    """Of a list; None: the cell is one item."""
    rows: ArrowRows = field(compare=False, repr=False)

    def load(self) -> bytes | Path:
        """Return its bytes, or the path that stands in their place."""
        value = self.rows.cell(self.index, self.column)
        if self.item is not None and value is not None:
            value = value[self.item]
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            value = data if data is not None else self.rows.folder / path if path else None
        if value is None:
            raise MediaError(f"{self.rows.label(self.index)} holds no bytes and no path in {self.column}")
        return value


class ArrowRows(Rows):
    """What tables have in common: which columns hold media, and the cells that stand for them."""

    media: dict[str, bool]
    """Column of media -> whether a cell is a list of items."""

    @abstractmethod
    def cell(self, index: int, column: str) -> Any:
        """Return the value of a media column."""

    def _with_cells(self, index: int, row: dict[str, Any], counts: dict[str, int | None]) -> Row:
        """Put cells for the media into a row; ``counts``: column -> items of its list, None where there is none."""
        for column, listed in self.media.items():
            n = counts[column]
            name = self.label(index)
            if n is None:
                row[column] = None
            elif listed:
                row[column] = [Cell(name, index, column, item, self) for item in range(n)]
            else:
                row[column] = Cell(name, index, column, None, self)
        return row


class Parquet(ArrowRows):
    """Parquet files; a row group is read at once, so groups are the blocks."""

    kind = "Parquet"

    def __init__(self, files: Sequence[str], folder: Path, open_file: Callable[[str], Any] = str) -> None:
        """Read the footers of ``files``, which ``open_file`` makes something that pyarrow reads."""
        from pyarrow import ArrowException
        from pyarrow import parquet as pq

        self._files, self.folder, self._open = list(files), folder, open_file
        self._footers: list[parquet.FileMetaData] = []
        self._groups: list[tuple[int, int]] = []
        sizes = []
        for number, name in enumerate(self._files):
            try:
                footer = pq.read_metadata(open_file(name))
            except (ArrowException, OSError) as error:
                raise MmllmError(f"{name} cannot be read as Parquet: {error}") from error
            _check_columns(name, footer, self._files[0], self._footers[0] if self._footers else footer)
            self._footers.append(footer)
            for group in range(footer.num_row_groups):
                self._groups.append((number, group))
                sizes.append(footer.row_group(group).num_rows)
        self.blocks = sizes
        self._starts = [0, *accumulate(sizes)]
        schema = self._footers[0].schema.to_arrow_schema()
        self.media = media_columns(schema)
        self._plain = [column for column in schema.names if column not in self.media]
        self._labels = label_names(schema)
        self._light = [_light(footer, self.media) for footer in self._footers]
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], pyarrow.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _kept=OrderedDict())

    def __len__(self) -> int:
        """Return the rows of all files."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        """Return one row; of its media only how many there are is looked at."""
        group, place = self._place(index)
        row = self._table(group, "")[place : place + 1].to_pylist()[0] if self._plain else {}
        counts: dict[str, int | None] = {}
        for column, listed in self.media.items():
            value = self._table(group, self._light[self._groups[group][0]][column])[column][place].as_py()
            counts[column] = None if value is None else len(value) if listed else 1
        return self._with_cells(index, named(row, self._labels), counts)

    def cell(self, index: int, column: str) -> Any:
        """Return the value of a media column."""
        group, place = self._place(index)
        try:
            return self._table(group, column)[column][place].as_py()
        except SampleError as error:  # of an item, when its row is long read
            raise MediaError(str(error)) from error

    def label(self, index: int) -> str:
        """Return the file and the number of the row in it, from 1."""
        group, place = self._place(index)
        number, of_file = self._groups[group]
        before = sum(self._footers[number].row_group(one).num_rows for one in range(of_file))
        return f"{self._files[number]}#{before + place + 1}"

    def digest(self) -> str:
        """SHA-256 (hex) of the files; of files far away, of their footers: sizes, places and ranges of every column."""
        if len(self.files()) == len(self._files):
            return super().digest()
        footers = [footer.to_dict() for footer in self._footers]
        return hashlib.sha256(json.dumps(footers, default=str).encode()).hexdigest()

    def files(self) -> Sequence[Path]:
        """Return the files that are here."""
        return [Path(name) for name in self._files if Path(name).is_file()]

    def _place(self, index: int) -> tuple[int, int]:
        """Row group over all files, and the row in it."""
        group = bisect_right(self._starts, index) - 1
        return group, index - self._starts[group]

    def _table(self, group: int, column: str) -> pyarrow.Table:
        """One row group: a media column, a part of one (``images.list.element.path``), or all plain columns ('')."""
        from pyarrow import ArrowException
        from pyarrow import parquet as pq

        with self._lock:
            if (group, column) in self._kept:
                self._kept.move_to_end((group, column))
                return self._kept[group, column]
        number, of_file = self._groups[group]
        try:
            with pq.ParquetFile(self._open(self._files[number]), metadata=self._footers[number]) as file:
                table = file.read_row_group(of_file, columns=[column] if column else self._plain, use_threads=False)
        except (ArrowException, OSError) as error:
            raise SampleError(f"row group {of_file} of {self._files[number]} cannot be read ({error})") from error
        with self._lock:
            self._kept[group, column] = table
            while sum(one.nbytes for one in self._kept.values()) > _KEPT and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return table


def _check_columns(name: str, footer: parquet.FileMetaData, first: str, known: parquet.FileMetaData) -> None:
    """MmllmError where a file has other columns than the first one; their order is the writer's."""
    kinds, others = ({one.name: one.type for one in each.schema.to_arrow_schema()} for each in (known, footer))
    for column in {**kinds, **others}:
        if kinds.get(column) != others.get(column):
            found, wanted = (str(each.get(column, "missing"))[:80] for each in (others, kinds))
            raise MmllmError(
                f"{name} has other columns than {first}: {column} is {found} there and {wanted} in the first; read "
                "them as two datasets"
            )


def _light(footer: parquet.FileMetaData, media: Iterable[str]) -> dict[str, str]:
    """Media column -> its part that tells how many items a cell has without their bytes; a writer chose its name."""
    leaves = [footer.schema.column(i).path for i in range(len(footer.schema))]
    paths = [leaf for leaf in leaves if leaf.endswith(".path")]
    return {one: next((leaf for leaf in paths if leaf.startswith(f"{one}.")), one) for one in media}


class HfDataset(ArrowRows):
    """A dataset of the ``datasets`` library, memory-mapped: saved to disk, a folder in the hub's layout, or a hub's."""

    kind = "a Hugging Face dataset"

    def __init__(self, dataset: datasets.Dataset, name: str, folder: Path) -> None:
        self._dataset = dataset.with_format("arrow")  # media stay as they are stored
        self._name, self.folder = name, folder
        schema = dataset.features.arrow_schema
        self.media = media_columns(schema)
        self._plain = self._dataset.select_columns([one for one in schema.names if one not in self.media])
        self._labels = label_names(schema)

    def __len__(self) -> int:
        """Return its number of rows."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Row:
        """Return one row, cells for its media."""
        row = self._plain[index : index + 1].to_pylist()[0] if self._plain.column_names else {}
        counts: dict[str, int | None] = {}
        for column, listed in self.media.items():
            value = self._one(index, column)
            counts[column] = len(value) if listed and value.is_valid else 1 if value.is_valid else None
        return self._with_cells(index, named(row, self._labels), counts)

    def cell(self, index: int, column: str) -> Any:
        """Return the value of a media column."""
        return self._one(index, column).as_py()

    def _one(self, index: int, column: str) -> Any:
        return self._dataset[index : index + 1][column][0]

    def label(self, index: int) -> str:
        """Return its name and the number of the row, from 1."""
        return f"{self._name}#{index + 1}"

    def files(self) -> Sequence[Path]:
        """Return its Arrow files."""
        return [Path(one["filename"]) for one in self._dataset.cache_files]


def media_columns(schema: pyarrow.Schema) -> dict[str, bool]:
    """Columns of bytes, or of structs of bytes and a path -> whether they hold lists of these."""
    from pyarrow import types

    def is_media(kind: Any) -> bool:
        if types.is_struct(kind):
            return {"bytes", "path"} >= {one.name for one in kind} >= {"bytes"}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = {}
    for column in schema:
        listed = types.is_list(column.type) or types.is_large_list(column.type)
        if is_media(column.type.value_type if listed else column.type):
            found[column.name] = listed
    return found


def label_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Column -> names of its classes, where the ``datasets`` library wrote them into the file."""
    text = (schema.metadata or {}).get(b"huggingface")
    features = (json.loads(text).get("info") or {}).get("features") or {} if text else {}
    return {
        name: one["names"]
        for name, one in features.items()
        if isinstance(one, dict) and one.get("_type") == "ClassLabel" and "names" in one
    }


def named(row: dict[str, Any], labels: dict[str, list[str]]) -> dict[str, Any]:
    """Return a row with the names of its classes in place of their numbers."""
    for column, names in labels.items():
        number = row.get(column)
        if isinstance(number, int) and 0 <= number < len(names):
            row[column] = names[number]
    return row
