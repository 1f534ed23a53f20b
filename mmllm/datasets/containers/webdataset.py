"""Rows of WebDataset shards: tar files whose members of one name but for the ending are one sample.

A shard's headers are read once; then every sample is a seek away, so that order, shuffling and resume are those of any
other container. Media are read where they are needed, on the rank that needs them.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmllm.datasets.containers.base import Row, Rows
from mmllm.datasets.containers.json_rows import parsed
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.modalities import modality_of
from mmllm.types import Stored

_TEXTS = {"txt": "text", "text": "text", "caption": "caption", "cls": "label"}
"""Ending of a member -> field that its text becomes."""


@dataclass(frozen=True)
class Member(Stored):
    """A file inside a tar shard."""

    shard: Path
    name: str
    start: int
    size: int

    def load(self) -> bytes:
        """Return its bytes."""
        try:
            with self.shard.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise MediaError(f"{self.name} of {self.shard} cannot be read: {error}") from error
        if len(data) < self.size:
            raise MediaError(f"{self.name} of {self.shard} is cut: {len(data)} of {self.size} bytes")
        return data


class WebDataset(Rows):
    """Samples of tar shards, shard after shard, in the order in which their members stand."""

    kind = "WebDataset shards"

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards, self.folder = list(shards), shards[0].parent
        # numbers, not objects: 24 bytes a member and 12 a sample; names are read again when they are needed
        self._shard, self._first = array("I"), array("Q")
        self._heads, self._starts, self._sizes = array("Q"), array("Q"), array("Q")
        for number, shard in enumerate(self._shards):
            self._index(number, shard)
        self._first.append(len(self._heads))

    def _index(self, number: int, shard: Path) -> None:
        """Note every member of one shard."""
        last = None
        ended: set[str] = set()
        try:
            with tarfile.open(shard, "r:") as tar:  # uncompressed: only there a member can be reached by a seek
                for member in tar:
                    if not member.isfile() or Path(member.name).name.startswith("."):
                        continue
                    key = _split(member.name)[0]
                    if key != last:
                        if key in ended:
                            raise MmllmError(f"{shard}: the members of {key} do not stand together; sort the shard")
                        if last is not None:
                            ended.add(last)
                        self._shard.append(number)
                        self._first.append(len(self._heads))
                        last = key
                    self._heads.append(member.offset)
                    self._starts.append(member.offset_data)
                    self._sizes.append(member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise MmllmError(
                f"{shard} cannot be read as a tar file: {error}; a compressed one has to be unpacked"
            ) from error

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._shard)

    def __getitem__(self, index: int) -> Row:
        """Return the fields of the sample's JSON and texts, and a member for each media file."""
        row: dict[str, Any] = {}
        media: dict[str, list[tuple[str, Member]]] = {}
        for member in self._members(index):
            ending = _split(member.name)[1]
            kind = ending.rpartition(".")[2].lower()
            if kind == "json":
                _add(row, parsed(_text(member)), member)
            elif kind in _TEXTS:
                _add(row, {_TEXTS[kind]: _text(member).strip()}, member)
            elif (modality := modality_of(kind)) is not None:
                media.setdefault(modality, []).append((ending, member))
            else:
                _add(row, {ending: member}, member)
        for key, found in media.items():
            named = [field for field in (key, f"{key}s") if row.get(field)]
            for field in named:
                row[field] = _matched(row[field], [member for _, member in found])
            if not named:
                # 0.jpg, 1.jpg, 10.jpg: by number where the endings begin with one
                row[key] = [member for _, member in sorted(found, key=lambda one: _order(one[0]))]
        return row

    def label(self, index: int) -> str:
        """Return the shard and the key of the sample."""
        first = self._members(index)[0]
        return f"{first.shard}#{_split(first.name)[0]}"

    def files(self) -> Sequence[Path]:
        """Return the shards."""
        return self._shards

    def _members(self, index: int) -> list[Member]:
        shard = self._shards[self._shard[index]]
        with shard.open("rb") as file:
            return [
                Member(shard, self._name(file, i), self._starts[i], self._sizes[i])
                for i in range(self._first[index], self._first[index + 1])
            ]

    def _name(self, file: Any, i: int) -> str:
        """Name of a member, from its header: a long one spans several blocks, which tarfile understands."""
        file.seek(self._heads[i])
        with tarfile.open(fileobj=file, mode="r:") as tar:
            member = tar.next()
        if member is None:
            raise SampleError("its shard changed while it was read")
        return member.name


def _split(name: str) -> tuple[str, str]:
    """Key of a sample and ending of a member, at the first dot of the file's own name."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}{slash}{key}", ending


def _add(row: dict[str, Any], fields: Mapping[str, Any], member: Member) -> None:
    """Add the fields of one member; SampleError where another one gave a field another value."""
    twice = next((name for name, value in fields.items() if name in row and row[name] != value), None)
    if twice is not None:
        raise SampleError(
            f"two of its members hold {twice}, the second is {member.name}; a sample's name ends at the first dot, so "
            "names of samples have none"
        )
    row |= fields


def _order(ending: str) -> tuple[int, str]:
    number = ending.partition(".")[0]
    return (int(number) if number.isdecimal() else 0, ending)


def _text(member: Member) -> str:
    try:
        return member.load().decode("utf-8-sig")
    except (MediaError, UnicodeDecodeError) as error:
        raise SampleError(f"{member.name} cannot be read as text ({error})") from error


def _matched(value: Any, members: list[Member]) -> Any:
    """Return the members that a field names, in its order; SampleError where it names others."""
    names = value if isinstance(value, list) else [value]
    if len(names) == len(members) == 1:
        return members  # the file's name before it was packed says nothing more
    known = {Path(member.name).name: member for member in members}
    found = [known.get(Path(str(name)).name) for name in names]
    if None in found or len(found) != len(members):
        raise SampleError(f"its JSON names {names}, and the members are {', '.join(known)}")
    return found
