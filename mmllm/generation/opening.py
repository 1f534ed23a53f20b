"""A run folder as something that answers, with the recipe's limits; for the server and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmllm.checkpoints.load import Trust, load_run
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.model.feature_cache import cache_as_said
from mmllm.recipe.models import Recipe


def open_run(run: Path, overrides: Sequence[str] = (), trust: Trust | None = None) -> tuple[Recipe, Generator]:
    """The recipe of a run and its last checkpoint; arguments and errors as ``checkpoints.load.load_run`` has them.

    With `serve.cache` it reads kept features, and keeps nothing of what it is shown.
    """
    recipe, model = load_run(run, overrides=overrides, trust=trust)
    cache_as_said(model, recipe.serve.cache, verify=trust is not None and trust.verify, adds=False)
    return recipe, Generator(model, Sizes.of(recipe.serve), recipe.serve.system)
