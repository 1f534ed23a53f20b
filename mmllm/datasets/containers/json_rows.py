"""Rows of JSON files: one object per line, or an array of objects; only where each row begins is kept in memory."""

from __future__ import annotations

import ast
import codecs
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmllm.datasets.containers.base import Row, Rows
from mmllm.errors import MmllmError, SampleError, shortened

_BLOCK = 1 << 20  # bytes of an array that are looked at together; doubled for a row that is longer
_BLANK = b" \t\r\n"


class JsonLines(Rows):
    """One JSON object per line; blank lines are not counted, a byte order mark is no part of the first one."""

    kind = "JSON lines"

    def __init__(self, path: Path) -> None:
        self._path, self.folder = path, path.parent
        # arrays, not lists: 8 bytes a number, so that files of many million lines fit
        self._offsets, self._numbers = array("Q"), array("Q")
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                skipped = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                if line[skipped:].strip():
                    self._offsets.append(offset + skipped)
                    self._numbers.append(number)
                offset += len(line)

    def __len__(self) -> int:
        """Return the number of lines that are not blank."""
        return len(self._offsets)

    def __getitem__(self, index: int) -> Row:
        """Return the object of a line."""
        with self._path.open("rb") as file:  # opened anew: safe from threads and after forks
            file.seek(self._offsets[index])
            return parsed(file.readline())

    def label(self, index: int) -> str:
        """Return the file and the number of the line."""
        return f"{self._path}:{self._numbers[index]}"

    def files(self) -> Sequence[Path]:
        """Return the file."""
        return (self._path,)


class JsonArray(Rows):
    """One JSON array of objects, read row by row: a file of any size is never held as a whole."""

    kind = "a JSON array"

    def __init__(self, path: Path) -> None:
        self._path, self.folder = path, path.parent
        self._starts, self._stops = array("Q"), array("Q")
        try:
            for start, stop in _elements(path):
                self._starts.append(start)
                self._stops.append(stop)
        except ValueError as error:
            raise MmllmError(f"{path} is no array of JSON objects: {error} (after {len(self._starts)} rows)") from error

    def __len__(self) -> int:
        """Return the number of elements."""
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        """Return one element."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            return parsed(file.read(self._stops[index] - self._starts[index]))

    def label(self, index: int) -> str:
        """Return the file and the number of the element, from 1."""
        return f"{self._path}#{index + 1}"

    def files(self) -> Sequence[Path]:
        """Return the file."""
        return (self._path,)


def parsed(text: bytes | str) -> Row:
    """Return the JSON object of a row; SampleError for another value, a damaged one or a key that stands twice."""
    try:
        row = json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:  # also of bytes that are no UTF-8
        opened = text.strip() in (b"{", "{")
        hint = "; objects over several lines stand in an array: [{...}, {...}]" if opened else ""
        raise SampleError(f"not a JSON object ({error}){hint}") from error
    except RecursionError as error:
        raise SampleError("not a JSON object that can be read (nested too deeply)") from error
    if not isinstance(row, dict):
        raise SampleError(f"a row is a JSON object, and this is {_shown(row)}")
    return row


def unpacked(value: Any) -> Any:
    """Return the list or object that a text holds as JSON or as Python writes it; any other value as it is."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value, object_pairs_hook=_unique)
    except ValueError:
        pass
    try:
        found = ast.literal_eval(value) if value.endswith(("]", "}")) else None  # as pandas writes lists into CSV
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return found if isinstance(found, list | dict) else value


def is_array(path: Path) -> bool:
    """Whether the first sign of a file opens an array."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip(_BLANK)
    return head.startswith(b"[")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SampleError(f"the key {shortened(twice)} stands twice in one object; one of the two would be lost")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _elements(path: Path) -> Iterator[tuple[int, int]]:
    """First byte and the byte behind the last of each element; ValueError says what is no JSON."""
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        reader = _Reader(file)
        reader.skip(codecs.BOM_UTF8)
        if reader.sign() != "[":
            raise ValueError("it does not begin with [")
        reader.advance(1)
        if reader.sign() == "]":
            return
        while True:
            if reader.sign() != "{":
                raise ValueError(f"found {reader.text[reader.at : reader.at + 20]!r} where an object should begin")
            start = reader.offset
            reader.element(decoder)
            yield start, reader.offset
            sign = reader.sign()
            reader.advance(1)
            if sign == "]":
                if reader.sign():
                    raise ValueError(f"found {reader.text[reader.at : reader.at + 20]!r} behind the array")
                return
            if sign != ",":
                raise ValueError(f"found {sign or 'its end'!r} behind a row, expected a comma or ]")


class _Reader:
    """Text of a file from a place on, with the number of the byte it stands for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at = "", 0
        self.offset = 0
        """Byte of ``text[at]`` in the file."""

    def skip(self, mark: bytes) -> None:
        """Pass over a byte order mark."""
        if self._file.read(len(mark)) == mark:
            self.offset = len(mark)
        else:
            self._file.seek(0)

    def more(self, size: int = _BLOCK) -> bool:
        """Read on; False at the end of the file."""
        data = self._file.read(size)
        self.text, self.at = self.text[self.at :] + self._decode.decode(data, final=not data), 0
        return bool(data)

    def advance(self, n: int) -> None:
        """Pass over so many characters."""
        self.offset += len(self.text[self.at : self.at + n].encode())
        self.at += n

    def sign(self) -> str:
        """Return the next character that is not blank; empty at the end."""
        while True:
            rest = self.text[self.at : self.at + 4096]
            blank = len(rest) - len(rest.lstrip(" \t\r\n"))
            self.advance(blank)
            if blank < len(rest):
                return self.text[self.at]
            if not rest and not self.more():
                return ""

    def element(self, decoder: json.JSONDecoder) -> None:
        """Pass over one JSON value."""
        size = _BLOCK
        while True:
            try:
                _, end = decoder.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise ValueError("a row is nested too deeply") from error
            except ValueError as error:
                # cut by the end of what is read so far, or damaged: the end of the file tells
                if not self.more(size):
                    raise ValueError(f"a row is damaged or cut ({error})") from error
                size *= 2
                continue
            self.advance(end - self.at)
            return
