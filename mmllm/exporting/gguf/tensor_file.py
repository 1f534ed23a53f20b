"""Writes a GGUF file tensor by tensor, so that no second copy of a model is held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, quants
from torch import Tensor

from mmllm.errors import MmllmError

DTYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}
"""Word of ``--dtype`` -> how matrices are stored, and what a file of such is called in ``general.file_type``."""
Keys = Callable[[GGUFWriter], None]


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    tensor: Tensor
    change: Callable[[Tensor], Tensor] | None = None
    """Of the tensor as it is stored, of the same shape; made when it is written."""
    whole: bool = False
    """Whether it stays float32 whatever the file's dtype: what is added or multiplied in, not a matrix product."""

    def values(self) -> numpy.ndarray:
        """The tensor as it is stored, float32."""
        found = self.tensor.detach().float()
        found = found if self.change is None else self.change(found)
        return found.contiguous().numpy()

    def kind(self, dtype: str) -> GGMLQuantizationType:
        """How it is stored; llama.cpp takes vectors as float32 alone."""
        return GGMLQuantizationType.F32 if self.whole or self.tensor.ndim < 2 else DTYPES[dtype][0]


def write_file(path: Path, architecture: str, keys: Keys, entries: Iterable[Entry], dtype: str) -> None:
    """Write a GGUF file.

    Args:
        path: of the file.
        architecture: ``general.architecture``.
        keys: adds the keys to a writer.
        entries: its tensors.
        dtype: a key of :data:`DTYPES`.
    """
    writer = GGUFWriter(path, architecture)
    keys(writer)
    writer.add_file_type(DTYPES[dtype][1])
    listed = list(entries)
    for entry in listed:
        kind = entry.kind(dtype)
        size = entry.tensor.numel() * (4 if kind == GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(entry.name, tuple(entry.tensor.shape), numpy.dtype("float32"), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in listed:
        writer.write_tensor_data(quants.quantize(entry.values(), entry.kind(dtype)))
    writer.close()


def check_file(path: Path, entries: Iterable[Entry], dtype: str) -> None:
    """Read a file with gguf's own reader and compare every tensor with what it was made of, bit for bit.

    Raises:
        MmllmError: one is missing or differs.
    """
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for entry in entries:
        there = found.pop(entry.name, None)
        if there is None or not _same(there, entry, dtype):
            raise MmllmError(f"--to gguf: {path.name} was not written as it was meant ({entry.name} differs)")
    if found:
        raise MmllmError(f"--to gguf: {path.name} holds tensors that nobody wrote ({next(iter(found))})")


def _same(there: Any, entry: Entry, dtype: str) -> bool:
    """Whether a tensor of a file has type, shape and bytes of an entry."""
    kind = entry.kind(dtype)
    if there.tensor_type != kind or [int(n) for n in reversed(there.shape)] != list(entry.tensor.shape):
        return False
    meant = quants.quantize(entry.values(), kind)
    return numpy.array_equal(there.data.view("uint8").ravel(), meant.view("uint8").ravel())
