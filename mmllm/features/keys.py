"""The digest of all that shapes an encoder's features beside the item: weights, structure, preprocessing, code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmllm.encoders.base import Encoder
from mmllm.features.shards import FORM
from mmllm.processors.settings import settings

LIBRARIES = (
    "torch", "transformers", "open_clip_torch", "timm", "torchvision", "torchcodec", "pillow", "numpy", "tokenizers",
    "decord", "eva-decord", "av", "soundfile", "soxr", "torchaudio",
)  # fmt: skip
"""Distributions that read media or compute features: with another version the last bits may be others."""
ROOMS = ("encoders", "processors", "hooks", "vlms")
"""Rooms of this package whose code runs between an item and its features."""
_PLACES = ("name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype")
_PLAIN = (bool, int, float, str, type(None))


def description(encoder: Encoder, weights: str, dtype: str) -> dict[str, Any]:
    """All that features depend on, as plain JSON; two encoders that say the same give the same features.

    Args:
        encoder: frozen, with its processor.
        weights: sha256 of its weights.
        dtype: word of the dtype that is kept.
    """
    device = next((str(tensor.device.type) for tensor in encoder.parameters()), "cpu")
    return {
        "class": _name(type(encoder)),
        "layers": list(encoder.layers),
        "dtype": dtype,
        "form": FORM,
        "weights": weights,
        "device": device,
        "structure": digest([dict(_structure(encoder)), _buffers(encoder)]),
        "processor": settings(encoder.processor, limits=True),
        "code": _code(encoder),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
    }


def digest(value: Any) -> str:
    """sha256 (hex) of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _structure(encoder: Encoder) -> Iterator[tuple[str, Any]]:
    """Each module's class and plain settings (heads, eps, activations), and configurations of transformers."""
    seen: set[int] = set()
    for name, module in encoder.named_modules():
        plain = {word: value for word, value in vars(module).items() if _counts(word, value)}
        config = vars(module).get("config")
        if config is not None and hasattr(config, "to_dict") and id(config) not in seen:
            seen.add(id(config))
            plain["config"] = _placeless(config.to_dict())
        functions = {word: getattr(value, "__name__", "") for word, value in vars(module).items() if callable(value)}
        yield name, [_name(type(module)), plain, {word: one for word, one in functions.items() if one}]


def _counts(word: str, value: Any) -> bool:
    """Whether an attribute of a module is a setting: a plain value, or a mapping or sequence of such."""
    if word.startswith("_") or word == "training" or word.endswith(_PLACES):
        return False
    if isinstance(value, Mapping):
        return all(isinstance(one, _PLAIN) for one in value.values())
    if isinstance(value, list | tuple):
        return all(isinstance(one, _PLAIN) or _counts("", one) for one in value)
    return isinstance(value, _PLAIN)


def _placeless(value: Any) -> Any:
    """A configuration without where it came from; what is no plain value by its text."""
    if isinstance(value, Mapping):
        return {str(word): _placeless(one) for word, one in value.items() if not str(word).endswith(_PLACES)}
    if isinstance(value, list | tuple):
        return [_placeless(one) for one in value]
    return value if isinstance(value, _PLAIN) else str(value)


def _buffers(encoder: Encoder) -> list[str]:
    """Digests of the tensors that no checkpoint holds: positions, rotary frequencies."""
    stored = encoder.state_dict(keep_vars=True).keys()
    found = []
    for name, value in encoder.named_buffers():
        if name not in stored:
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            found.append(f"{name} {value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}")
    return found


def _code(encoder: Encoder) -> str:
    """sha256 of the source that runs: of this package's rooms, and of modules that outside parts are made in."""
    root = Path(__file__).parents[1]
    found = [file for room in ROOMS for file in sorted((root / room).rglob("*.py"))]
    for kind in (*type(encoder).__mro__, *type(encoder.processor).__mro__):
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file is not None and kind.__module__.partition(".")[0] not in ("mmllm", "torch", "abc"):
            found.append(Path(file))
    total = hashlib.sha256()
    for file in dict.fromkeys(found):
        total.update(file.read_bytes())
    return total.hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _name(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
