"""One shard of a feature store: a safetensors file with the records of many items, read by memory map.

Its index (keys, grids, sizes, digests of every record) has a digest in the file's metadata and is checked when the
shard is opened, a record when it is first read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmllm.features import files
from mmllm.features.record import Record
from mmllm.types import Grid

FORM = "1"
"""Counts up when the form of a shard changes; part of what a store is known by, so that forms never mix."""
LAYER, EXTRA, SHAPE = "layer.", "extra.", "shape."
"""Beginnings of the names of tensors: all items' tokens of a layer end to end, values of an extra, shapes of those."""


class DamagedShard(Exception):
    """A shard that is torn or altered; its sentence says how."""


class UnreadableShard(DamagedShard):
    """A shard that cannot be read now, or not by this version: it may be whole."""


def write(folder: Path, records: Mapping[bytes, Record]) -> Path:
    """Write a shard of these records, by the 32 bytes of their keys; MmllmError where the disk is full."""
    items = list(records.values())
    tensors = _tensors(list(records), items)
    digests = [_digest(record) for record in items]
    tensors["digests"] = _bytes(digests)
    described = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    index = {name: value for name, value in tensors.items() if not name.startswith((LAYER, EXTRA))}
    return files.write(folder, tensors, {"form": FORM, "index": _index_digest(described, index)})


class Shard:
    """An open shard. Safe for threads; its tensors stay readable where the file is removed."""

    def __init__(self, path: Path) -> None:
        """Open and check the index; DamagedShard where it is not what was written."""
        self.path = path
        self._stat = _stat(path)
        try:
            self._file = safe_open(path, "pt")
            metadata = self._file.metadata() or {}
            names = list(self._file.keys())
            parts = {name: self._file.get_slice(name) for name in names}
            index = {name: self._file.get_tensor(name) for name in names if not name.startswith((LAYER, EXTRA))}
        except (OSError, MemoryError) as error:
            raise UnreadableShard(f"it cannot be read: {error}") from error
        except (SafetensorError, ValueError) as error:
            raise DamagedShard(str(error).strip().partition("\n")[0]) from error
        described = {name: [_DTYPES.get(part.get_dtype(), ""), part.get_shape()] for name, part in parts.items()}
        if metadata.get("form") != FORM or metadata.get("index") != _index_digest(described, index):
            raise DamagedShard("its index does not have the digest that it holds itself")
        self._slices = {name: parts[name] for name in names if name.startswith((LAYER, EXTRA))}
        self.keys = [bytes(row) for row in index["keys"].numpy()]
        """Of its records, 32 bytes each, in order."""
        self._digests = [bytes(row) for row in index["digests"].numpy()]
        self._grids = [tuple(grid) for grid in index["grids"].tolist()]
        self._starts = {LAYER: [0, *accumulate(map(prod, self._grids))]}
        self._shapes: dict[str, list[list[int]]] = {}
        for name in index:
            if name.startswith(SHAPE):
                extra = EXTRA + name.removeprefix(SHAPE)
                self._shapes[extra] = index[name].tolist()
                self._starts[extra] = [0, *accumulate(map(prod, self._shapes[extra]))]
        self._seconds = None
        if "seconds" in index:
            self._seconds = index["seconds"].split(index["steps"].tolist())
        self._checked = bytearray(len(self.keys))

    def shape(self, row: int) -> tuple[Grid, Tensor | None]:
        """Grid and times of record number ``row``, by the index alone."""
        return self._grids[row], None if self._seconds is None else self._seconds[row]

    def read(self, row: int) -> Record:
        """Record number ``row``, its tensors views of the file; DamagedShard where it is not what was written."""
        if _stat(self.path) != self._stat:
            raise DamagedShard("it was changed while it was in use")
        layers, extras = {}, {}
        for name, part in self._slices.items():
            starts = self._starts[LAYER if name.startswith(LAYER) else name]
            value = part[starts[row] : starts[row + 1]]
            if name.startswith(LAYER):
                layers[name.removeprefix(LAYER)] = value
            else:
                extras[name.removeprefix(EXTRA)] = value.view(self._shapes[name][row])
        grid, seconds = self.shape(row)
        found = Record(layers, grid, extras, seconds)
        if not self._checked[row]:  # once: hashing a record takes longer than reading it
            if _digest(found) != self._digests[row]:
                raise DamagedShard(f"record {row} does not have the digest that its index says")
            self._checked[row] = 1
        return found


def _tensors(keys: Sequence[bytes], records: Sequence[Record]) -> dict[str, Tensor]:
    """All records of a shard, each of their tensors end to end."""
    first = records[0]
    tensors = {"keys": _bytes(keys), "grids": torch.tensor([record.grid for record in records])}
    for name in first.layers:
        tensors[LAYER + name] = torch.cat([record.layers[name] for record in records])
    for name in first.extras:
        values = [record.extras[name] for record in records]
        tensors[EXTRA + name] = torch.cat([value.flatten() for value in values])
        shapes = torch.tensor([list(value.shape) for value in values], dtype=torch.int64)
        tensors[SHAPE + name] = shapes.view(len(values), values[0].dim())
    if first.seconds is not None:
        times = [record.seconds if record.seconds is not None else torch.zeros(0).double() for record in records]
        tensors["seconds"] = torch.cat(times)
        tensors["steps"] = torch.tensor([len(one) for one in times])
    return tensors


def _bytes(rows: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(len(rows), -1)


def _digest(record: Record) -> bytes:
    """16 bytes over the values of a record; what they mean, the index's own digest covers."""
    total = hashlib.sha256()
    for part in (record.layers, record.extras):
        for name in sorted(part):
            total.update(name.encode())
            total.update(part[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.digest()[:16]


def _index_digest(described: Mapping[str, Any], index: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes and shapes of all tensors and the values of the index."""
    total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(index):
        total.update(index[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UnreadableShard(f"it cannot be read: {error.strerror}") from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


_DTYPES = {
    "F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16",
    "I64": "torch.int64", "I32": "torch.int32", "I16": "torch.int16", "I8": "torch.int8", "U8": "torch.uint8",
    "BOOL": "torch.bool",
}  # fmt: skip
"""Safetensors' names of dtypes -> torch's."""
