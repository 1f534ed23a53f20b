"""Functions of ``import mmllm``: load a run, read a recipe, train it, score it; each a few lines over the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    import torch

    from mmllm.generation.model import Model
    from mmllm.recipe.models import Recipe


def load(
    run: str | Path,
    device: torch.device | str | None = None,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    *,
    accept: bool = False,
    verify: bool = False,
    trust_code: bool = False,
) -> Model:
    """Open a run folder (what ``train`` or ``Model.save_pretrained`` wrote) and put its learned weights in place.

    Args:
        run: the folder, or ``user/name`` of one on the Hugging Face hub where there is no such folder.
        device: where to; default: a GPU if there is one.
        stage: weights of that stage instead of the last one.
        overrides: ``path=value`` for what did not shape the weights: ``llm.path=...``, ``llm.context=4096``.
        accept: go on where tokenizer, chat template or preprocessing are others than in training.
        verify: hash the frozen weights anew, even where their files have not changed since they were hashed.
        trust_code: import classes of the user's own files (``module:Class``) that the run names.

    Raises:
        CheckpointError: no run, no usable checkpoint, or other frozen parts than those it was trained on.
    """
    # imported in the functions, here and below: `import mmllm` must not import torch
    from mmllm.checkpoints.load import Trust
    from mmllm.generation.model import Model

    _no_text("overrides", overrides)
    return Model.open(run, device, stage, overrides, Trust(accept, verify, trust_code))


def load_recipe(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    text: str | None = None,
    trust_code: bool = False,
) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a file, a run folder, or the name of a shipped recipe (``mmllm ls recipes``).
        overrides: ``path=value`` as on the command line, e.g. ``stages.align.batch=64``.
        text: the YAML itself, instead of ``path``.
        trust_code: import classes that a run from elsewhere names (``module:Class``).

    Raises:
        RecipeError: every problem with its place.
    """
    from mmllm.recipe.files import find_recipe
    from mmllm.recipe.load import load_recipe as read
    from mmllm.recipe.load import parse
    from mmllm.recipe.located import run_of

    _no_text("overrides", overrides)
    if (path is None) == (text is None):
        raise MmllmError("load_recipe needs a path or a text, one of the two.")
    if text is not None:
        return parse(text, overrides)
    if not isinstance(path, str | os.PathLike):
        raise MmllmError(f"a recipe is a file, a run folder or a name, found {path!r}.")
    file = find_recipe(str(path))
    run = run_of(file)
    if run is not None:
        from mmllm.checkpoints.code_trust import check_code

        check_code(run, trust_code)
    recipe = read(file, overrides)
    recipe._run = run
    return recipe


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
) -> Path:
    """Train all stages of a recipe in this process, on one device; goes on where an earlier call stopped.

    ``out``: run folder; default: the run whose folder or recipe.yaml ``recipe`` is or was loaded from, else
    ``runs/<name>``.
    ``trust_code``: as ``load_recipe``. Several GPUs: the command line, ``mmllm train --gpus N``. Returns the folder.
    Raises as ``load_recipe``, and MmllmError for data or weights that cannot be used.
    """
    from mmllm.recipe.models import Recipe
    from mmllm.recipe.shipped_parts import place_parts
    from mmllm.training.run import train as run

    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, trust_code=trust_code)
    if isinstance(recipe, Recipe) and overrides:
        raise MmllmError("overrides are for a recipe's file; give them to load_recipe.")
    sentence = place_parts(chosen)
    if sentence:
        print(f"mmllm: {sentence}.", file=sys.stderr)
    folder = Path(out) if out is not None else chosen._run or Path("runs") / chosen.name
    run(chosen, folder)
    return folder


def evaluate(
    run: Model | str | Path,
    benchmarks: Mapping[str, Mapping[str, Any] | None] | Sequence[str] | None = None,
    *,
    limit: int | None = None,
    sample: int | None = None,
    blind: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Score a run on benchmarks; returns what is written to ``results.json``.

    Args:
        run: a loaded model or its folder.
        benchmarks: names, or name -> arguments of its class; default: the recipe's.
        limit: only the first so many questions of each.
        sample: a seed that draws so many at random instead.
        blind: also the text-only baseline: the same questions without their media.
        out: folder for results and predictions instead of the run's.
    """
    from mmllm.evaluation.run import evaluate_with

    _no_text("benchmarks", benchmarks)
    model = load(run) if isinstance(run, str | Path) else run
    folder = Path(out) if out is not None else model.folder
    if folder is None:
        raise MmllmError("this model has no folder of its own; say where results go: evaluate(model, out=...).")
    names = benchmarks.items() if isinstance(benchmarks, Mapping) else ((name, None) for name in benchmarks or ())
    chosen = None if benchmarks is None else {name: dict(arguments or {}) for name, arguments in names}
    return evaluate_with(model.generator, model.recipe, folder, chosen, limit, blind, sample)


def _no_text(name: str, value: Any) -> None:
    # a text is a sequence too, of its letters
    if isinstance(value, str):
        raise MmllmError(f"{name} is a list; write {name}=[{value!r}].")
