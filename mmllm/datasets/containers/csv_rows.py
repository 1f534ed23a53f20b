"""Rows of CSV and TSV files: the first line names the fields; every cell is a text."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

from mmllm.datasets.containers.base import Row, Rows
from mmllm.errors import MmllmError, SampleError, shortened

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
"""Sign between cells -> what it is called."""


class CsvRows(Rows):
    """Comma- or tab-separated values, quoted as RFC 4180 says; a quoted cell may hold line breaks."""

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.kind = "CSV" if delimiter == "," else "TSV"
        self._path, self.folder, self._delimiter = path, path.parent, delimiter
        self._offsets, self._numbers = array("Q"), array("Q")
        csv.field_size_limit(1 << 30)  # of the whole process: pictures in base64 are longer than the default 131,072
        at, number = 0, 1
        with path.open("rb") as file:
            counted = _Lines(file)
            try:
                # strict: a quote that is never closed would take all rows behind it into its cell
                records = csv.reader(counted, delimiter=delimiter, strict=True)
                self.fields = next(records, [])
                at, number = counted.offset, counted.number + 1
                for record in records:
                    if record:
                        self._offsets.append(at)
                        self._numbers.append(number)
                    at, number = counted.offset, counted.number + 1
            except UnicodeDecodeError as error:
                raise MmllmError(
                    f"{path} is not UTF-8 text behind line {counted.number}: {error}; save it so"
                ) from error
            except csv.Error as error:
                raise MmllmError(
                    f"{path} is no {self.kind}: {error} (in the record that begins on line {number}); a cell with a "
                    'quote or a line break stands in quotes, and a quote in it is written twice: "a ""word"""'
                ) from error
        self._check_delimiter()
        if len(set(self.fields)) < len(self.fields):
            raise MmllmError(f"{path}: a field stands twice in the first line: {', '.join(self.fields)}")

    def _check_delimiter(self) -> None:
        """MmllmError where the first line is one field that another sign cuts: no form has one field alone."""
        found = (
            [sign for sign in _DELIMITERS if sign != self._delimiter and sign in self.fields[0]] if self.fields else []
        )
        if len(self.fields) == 1 and found:
            raise MmllmError(
                f"{self._path} is read with {_DELIMITERS[self._delimiter]} between its cells, and its first line has "
                f"{_DELIMITERS[found[0]]}: {shortened(self.fields[0])}; save it with commas (.csv) or tabs (.tsv)"
            )

    def __len__(self) -> int:
        """Return the number of records below the head."""
        return len(self._offsets)

    def __getitem__(self, index: int) -> Row:
        """Return one record, empty cells left out."""
        stop = self._offsets[index + 1] if index + 1 < len(self._offsets) else None
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            data = file.read() if stop is None else file.read(stop - self._offsets[index])
        cells = next(csv.reader(_Lines(BytesIO(data)), delimiter=self._delimiter))
        if len(cells) != len(self.fields):
            raise SampleError(f"{len(cells)} cells, and the first line names {len(self.fields)} fields")
        return {name: cell for name, cell in zip(self.fields, cells, strict=True) if cell}

    def label(self, index: int) -> str:
        """Return the file and the number of the line that the record begins on."""
        return f"{self._path}:{self._numbers[index]}"

    def files(self) -> Sequence[Path]:
        """Return the file."""
        return (self._path,)


class _Lines(Iterator[str]):
    """Lines of a file as text, with their number and the byte where the next one begins."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.offset = self.number = 0

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8-sig" if not self.number else "utf-8")
        self.offset += len(line)
        self.number += 1
        return text
