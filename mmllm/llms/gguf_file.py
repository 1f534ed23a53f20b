"""A GGUF file (llama.cpp's format): finding it at ``llm.path`` and reading what it says of the model.

``gguf_config.py`` compares its keys with the config that transformers makes of them; ``gguf_cache.py`` converts it.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmllm.errors import MmllmError

BROKEN = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, RuntimeError, NotImplementedError,
    struct.error, OverflowError,
)  # fmt: skip
"""Errors that readers of GGUF raise on damaged files and on what they do not know."""


def find_gguf(path: str, file: str | None) -> Path | None:
    """The GGUF file that ``path`` means: itself, or the one in a folder without other weights; None: no GGUF.

    Raises:
        MmllmError: a folder with several and no ``file``, or a ``file`` that is not there.
    """
    place = Path(path)
    if place.suffix == ".gguf":
        if not place.is_file():
            raise MmllmError(
                f"llm.path: there is no file {path!r}; a path is meant from the current folder, {Path.cwd()}"
            )
        if file is not None:
            raise MmllmError(f"llm.file: {file!r}, but llm.path is a file already ({path!r}); leave one of the two out")
        return place
    found = sorted(place.glob("*.gguf")) if place.is_dir() else []
    if file is not None and not place.exists():
        raise MmllmError(
            f"llm.file: {path!r} is no folder here; a GGUF file of the hub is fetched first: hf download "
            f"{shlex.quote(path)} {shlex.quote(file)} --local-dir FOLDER"
        )
    if file is not None:
        chosen = place / file
        if chosen.suffix != ".gguf" or not chosen.is_file():
            known = ", ".join(one.name for one in found) or "none"
            raise MmllmError(f"llm.file: {path!r} has no GGUF file {file!r}; it has {known}")
        return chosen
    # beside safetensors a GGUF file is another form of the same model; the exact one is taken
    if not found or (place / "config.json").is_file():
        return None
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise MmllmError(f"llm.path: {path!r} has {len(found)} GGUF files; say which with llm.file: {names}")
    return found[0]


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says of its model."""

    path: Path
    architecture: str
    keys: Mapping[str, Any]
    """Its keys without the architecture in front: ``rope.freq_base``, ``attention.key_length``, ``tokenizer.*``."""
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor -> its shape in torch's order."""
    rope_factors: torch.Tensor | None
    """float[head_dim / 2]: what each rotary frequency is divided by, where the file holds such a table."""

    @property
    def weights(self) -> int:
        """Weights of the model, without tables of rotary factors."""
        counts = (torch.Size(shape).numel() for name, shape in self.shapes.items() if not name.startswith("rope_"))
        return sum(counts)


def read_gguf(path: Path) -> GgufFile:
    """Read keys and shapes; no weights.

    Raises:
        MmllmError: not a GGUF file, damaged, one piece of several, or no language model.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MmllmError(
            f"llm.path: {str(path)!r} is a GGUF file; reading it needs the package: pip install gguf"
        ) from error
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        architecture = str(fields["general.architecture"])
        shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
        factors = [torch.tensor(tensor.data).float() for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    except BROKEN as error:
        raise MmllmError(
            f"llm.path: {str(path)!r} is damaged, cut off or no GGUF file ({_line(error)}); fetch it again: "
            f"hf download MODEL {path.name} --local-dir {shlex.quote(str(path.parent))}"
        ) from error
    keys = {name.removeprefix(f"{architecture}."): value for name, value in fields.items()}
    _check_whole_model(path, architecture, keys)
    return GgufFile(path, architecture, keys, shapes, factors[0] if factors else None)


def _check_whole_model(path: Path, architecture: str, keys: Mapping[str, Any]) -> None:
    if int(keys.get("split.count", 1)) > 1:
        raise MmllmError(
            f"llm.path: {str(path)!r} is one of {keys['split.count']} pieces; join them first: "
            f"llama-gguf-split --merge {shlex.quote(path.name)} whole.gguf, and give llm.path whole.gguf"
        )
    if architecture == "clip" or keys.get("general.type") in ("mmproj", "adapter", "imatrix"):
        kind = keys.get("general.type", "mmproj")
        raise MmllmError(
            f"llm.path: {str(path)!r} is no language model but a file of kind {kind}; give the GGUF file of the model"
        )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
