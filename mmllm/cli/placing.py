"""Where what a recipe names lies: miniature parts are put in place, paths found elsewhere are said."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def place(path: Path, overrides: Sequence[str] = ()) -> None:
    """Copy the miniature parts a recipe names below the current folder where it has none, and say so."""
    from mmllm.recipe.load import load_recipe
    from mmllm.recipe.shipped_parts import place_parts

    sentence = place_parts(load_recipe(path, overrides))
    if sentence:
        print(f"mmllm: {sentence}.", file=sys.stderr)


def show_places(path: Path) -> None:
    """Say which paths of a recipe are not meant from the current folder, since they were found elsewhere."""
    from mmllm.recipe.load import paths_beside

    for sentence in paths_beside(path):
        print(f"mmllm: {sentence}", file=sys.stderr)
