"""The miniature parts that come with mmllm, copied to where recipes name them: below the current folder.

A recipe's paths are relative to the current folder, ``data/mini/lm`` like any other. Away from a checkout there is none
of it; ``mmllm cp``, ``train`` and ``demo`` then put it there, so that recipes, run folders and the digests of frozen
parts in checkpoints mean the same files as in a checkout, and nothing is looked up anywhere else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError
from mmllm.recipe.files import shipped_root
from mmllm.recipe.models import Recipe

HOME = Path("data/mini")
"""Folder of the miniature parts and worlds, relative to the current folder."""
PARTS = ("lm", "clip", "vit", "audio")


def place_parts(recipe: Recipe) -> str | None:
    """Copy the shipped parts that ``recipe`` names and the current folder lacks; the sentence that says so, or None.

    What is there stays as it is. Raises MmllmError where a part cannot be written.
    """
    named = {Path(text) for text in _texts([recipe.llm.path, *(part.args for part in recipe.encoders.values())])}
    missing = [path for path in (HOME / part for part in PARTS) if path in named and not path.exists()]
    copied = [str(path) for path in missing if _copy(shipped_root() / path, path)]
    if not copied:
        return None
    return f"{', '.join(copied)}: copied into the current folder from the miniature parts that come with mmllm"


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested arguments (``frames`` holds another encoder's)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _copy(source: Path, target: Path) -> bool:
    """Copy a folder whole or not at all; False where mmllm was installed without it, and loading it will say so."""
    if not source.is_dir():
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, suffix=".tmp") as beside:
            os.replace(shutil.copytree(source, Path(beside) / target.name), target)
    except OSError as error:
        raise MmllmError(f"{target}, a miniature part of the recipe, cannot be copied there: {error}") from error
    return True
