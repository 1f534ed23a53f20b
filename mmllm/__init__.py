"""mmllm: write a recipe, get a multimodal LLM.

``load`` a run and ask it, ``load_recipe``, ``train``, ``evaluate``. Importing this package imports no torch; the first
call does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmllm.api import evaluate, load, load_recipe, train
    from mmllm.errors import (
        CheckpointError,
        MediaError,
        MmllmError,
        RecipeError,
        SampleError,
        TooLongError,
        UnreadableError,
    )
    from mmllm.generation.model import Model
    from mmllm.types import Message, Sample

_NAMES = {
    "mmllm.api": ("evaluate", "load", "load_recipe", "train"),
    "mmllm.errors": (
        "CheckpointError",
        "MediaError",
        "MmllmError",
        "RecipeError",
        "SampleError",
        "TooLongError",
        "UnreadableError",
    ),
    "mmllm.generation.model": ("Model",),
    "mmllm.types": ("Message", "Sample"),
}
__all__ = [
    "CheckpointError",
    "MediaError",
    "Message",
    "MmllmError",
    "Model",
    "RecipeError",
    "Sample",
    "SampleError",
    "TooLongError",
    "UnreadableError",
    "__version__",
    "evaluate",
    "load",
    "load_recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for, so that the command line starts without torch."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
