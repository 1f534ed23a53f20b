"""Headers of safetensors files and indices of shards against the files: shortened downloads are seen unloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.errors import MmllmError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LENGTH = 8
"""Bytes in front that say how long the header is (little endian)."""
_MOST_HEADER = 100 << 20
"""Bytes: the limit of the safetensors library itself."""
_POINTER = b"version https://git-lfs"


class DamagedError(MmllmError):
    """A file of weights that is incomplete or of another kind; no place in it."""


def tensors(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape of a safetensors file, by its header alone.

    Raises:
        DamagedError: it cannot be read, is of another kind, or is shorter or longer than its header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(_LENGTH)
            length = int.from_bytes(start, "little")
            text = opened.read(min(length, _MOST_HEADER))
    except OSError as error:
        raise DamagedError(f"{file} cannot be read ({error.strerror})") from error
    if (start + text).startswith(_POINTER):
        raise DamagedError(
            f"{file} holds a pointer of Git LFS, not the weights; `git lfs pull` in its folder, or download it again"
        )
    if len(start) < _LENGTH or length > _MOST_HEADER:
        raise DamagedError(f"{file} is no safetensors file ({size:,} bytes); download it again")
    if len(text) < length:
        raise DamagedError(f"{file} is shortened: {size:,} bytes, its header alone has {length:,}; download it again")
    try:
        header: dict[str, Any] = json.loads(text)
        named = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in named.values()), default=0)
        shapes = {name: tuple(int(n) for n in entry["shape"]) for name, entry in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedError(f"{file} has a damaged header; download it again") from error
    whole = _LENGTH + length + end
    if size != whole:
        found = "shortened" if size < whole else "longer than its header says"
        raise DamagedError(f"{file} is {found}: {size:,} of {whole:,} bytes; download it again")
    return shapes


def problems(folder: Path) -> Iterator[str]:
    """A sentence for each thing wrong with the weights of a folder in save_pretrained format; none: all are there."""
    if (folder / SINGLE).is_file():  # what transformers takes first
        yield from _damaged(folder / SINGLE)
    elif (folder / INDEX).is_file():
        yield from _of_index(folder)
    elif any(folder.glob("*.bin")):
        yield (
            f"{folder} holds weights in .bin files alone, which are unpickled to be read; mmllm reads safetensors: "
            "save the model anew with save_pretrained"
        )
    else:
        yield f"{folder} holds no weights: there is neither {SINGLE} nor {INDEX}"


def _damaged(file: Path) -> Iterator[str]:
    try:
        tensors(file)
    except DamagedError as error:
        yield str(error)


def _of_index(folder: Path) -> Iterator[str]:
    """What an index names against the shards that are there."""
    try:
        weights: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weights.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{folder / INDEX} is damaged ({type(error).__name__}: {error}); download it again"
        return
    gone = [shard for shard in shards if not (folder / shard).is_file()]
    if gone:
        yield f"{len(gone)} of {len(shards)} shards that {folder / INDEX} names are not there: {', '.join(gone[:5])}"
    held: set[str] = set()
    whole = not gone
    for shard in sorted({*shards} - {*gone}):
        try:
            held |= tensors(folder / shard).keys()
        except DamagedError as error:
            whole = False
            yield str(error)
    lost = [name for name in weights if name not in held]
    # transformers (read in 5.23) goes by the names in the shards: an index that only spells them otherwise does no harm
    if whole and len(lost) > len(held - weights.keys()):
        near = registry.nearest(lost[0], held)
        hint = f'; did you mean "{near}"?' if near else ""
        first = f"{weights[lost[0]]}: {lost[0]}{hint}"
        yield f"{folder / INDEX} names {len(lost)} tensors that no shard holds, such as {first}"
