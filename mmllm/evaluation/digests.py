"""Digests (sha256) that a score belongs to: of the weights of every part, and of the files the questions come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_ELEMENTS = 2**24
"""Elements hashed at a time: a digest needs no second copy of the weights."""


def of_parts(model: nn.Module, only: Collection[str] | None = None) -> dict[str, str]:
    """Part (``llm``, ``llm.tokens``, ``encoders.<key>`` ...) -> sha256 of its tensors: names, dtypes, shapes, bytes.

    ``only``: of these parts.
    """
    import torch

    totals: dict[str, Any] = {}
    # sorted: the order in which layers are registered is no part of what the weights are
    for name, tensor in sorted(model.state_dict().items()):
        first, second, *_ = name.split(".")
        part = first if first == "llm" and second != "tokens" else f"{first}.{second}"
        if only is not None and part not in only:
            continue
        total = totals.setdefault(part, hashlib.sha256())
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in tensor.detach().contiguous().flatten().split(_ELEMENTS):
            # as bytes, since NumPy has no bfloat16
            total.update(piece.cpu().view(torch.uint8).numpy().data)
    return {part: total.hexdigest() for part, total in totals.items()}


def of_files(paths: Sequence[Path]) -> dict[str, str]:
    """File name -> sha256 of its content."""
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def of_value(value: Any) -> str:
    """sha256 of a value that JSON can write, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
