"""Reads chosen tensors out of a safetensors checkpoint, whole or in shards; the rest stays on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import cached_file

from mmllm.errors import MmllmError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def read_tensors(path: str, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Float32 tensors at ``path`` whose names begin with one of ``prefixes``, which is taken off their names.

    ``path``: a safetensors file, a folder in save_pretrained's format, or a hub id.

    Raises:
        MmllmError: there are no safetensors, or one is damaged.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    short = _short(name, prefixes)
                    if short is not None:
                        found[short] = opened.get_tensor(name).float()
        except (SafetensorError, OSError) as error:
            raise MmllmError(f"{file} cannot be read as safetensors ({error}); fetch or write it again") from error
    return found


def _short(name: str, prefixes: Sequence[str]) -> str | None:
    """The name behind the first of ``prefixes`` that it begins with."""
    return next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), None)


def weight_files(path: str) -> list[Path]:
    """Safetensors files at ``path`` as ``read_tensors`` takes it; MmllmError where there are none."""
    if Path(path).is_file():
        return [Path(path)]
    try:
        index = cached_file(path, INDEX, _raise_exceptions_for_missing_entries=False)
        if index is None:
            return [Path(str(cached_file(path, SINGLE)))]
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        return [Path(str(cached_file(path, name))) for name in names]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MmllmError(
            f"{path!r} holds no safetensors that can be read ({reason}); give a file or a folder"
        ) from error
