"""Reads the weights of a CTranslate2 model file (``model.bin``, binary version 6); ``whisper.py`` renames them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmllm.errors import MmllmError

VERSION = 6
"""Version of the file's layout that is read; CTranslate2 4 writes it."""
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""CTranslate2's numbers of element types -> numpy's; 5 is bfloat16, which numpy lacks."""


def read_model(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every variable by its name, in the type it is stored in; MmllmError for another version, type or a cut file.

    Layout, little-endian: u32 version; name of the model's kind; u32 its revision; u32 number of variables; for each
    its name, u8 rank, u32 per axis, u8 type, u32 bytes, data; then aliases: u32 number, pairs of names. A name is a
    u16 and as many bytes, the last of them 0.
    """
    with path.open("rb") as file:
        try:
            return _variables(file, path)
        except struct.error as error:
            raise MmllmError(f"{path}: the file ends too early for a CTranslate2 model; fetch it again.") from error


def _variables(file: BinaryIO, path: Path) -> dict[str, np.ndarray[Any, Any]]:
    (version,) = _numbers(file, "I")
    if version != VERSION:
        raise MmllmError(f"{path}: CTranslate2 model of layout {version}; known: {VERSION}.")
    _name(file)
    _numbers(file, "I")
    found: dict[str, np.ndarray[Any, Any]] = {}
    for _ in range(_numbers(file, "I")[0]):
        name = _name(file)
        shape = _numbers(file, f"{_numbers(file, 'B')[0]}I")
        kind, size = _numbers(file, "BI")
        if kind not in TYPES:
            raise MmllmError(f"{path}: {name} has CTranslate2's type {kind}; known: {', '.join(map(str, TYPES))}.")
        data = file.read(size)
        if len(data) != size:
            raise struct.error
        found[name] = np.frombuffer(data, TYPES[kind]).reshape(shape)
    for _ in range(_numbers(file, "I")[0]):
        alias, name = _name(file), _name(file)
        found[alias] = found[name]
    return found


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    layout = "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _name(file: BinaryIO) -> str:
    (size,) = _numbers(file, "H")
    return file.read(size).rstrip(b"\0").decode()
