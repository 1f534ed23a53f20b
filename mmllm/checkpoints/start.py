"""``start:`` of a recipe and of its connectors: the weights that a training begins with instead of drawn ones.

They come from another run's folder (a stage of it), a safetensors file, or a published model's projector. Called once,
before a run's first step; its checkpoints need the place no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmllm.checkpoints.load import last_checkpoint, run_recipe
from mmllm.checkpoints.store import LEARNED, read_tensors
from mmllm.connectors.base import Connector
from mmllm.errors import MmllmError, RecipeError
from mmllm.model.model import MultimodalLM
from mmllm.model.start import Started, fill, load_start, of_file
from mmllm.model.trainable import TOKENS, learned_parts
from mmllm.recipe.located import is_run
from mmllm.recipe.models import Recipe, Start


def start_weights(model: MultimodalLM, recipe: Recipe) -> dict[str, Started]:
    """Fill what the recipe gives a start; ``start`` or ``connectors.KEY.start`` -> what was taken and what was left.

    The recipe's own comes first, a connector's goes over it.

    Raises:
        RecipeError: nothing is there, names or shapes do not fit, or nothing at all was taken.
    """
    found: dict[str, Started] = {}
    if recipe.start is not None:
        found["start"] = _whole(model, recipe, recipe.start)
    for key, part in recipe.connectors.items():
        if part.start is None or part.start.by is not None:  # those are computed once there are data
            continue
        where, connector = f"connectors.{key}.start", model.connectors[key]
        assert isinstance(connector, Connector)
        if is_run(Path(part.start.path)):
            found[where] = _connector(where, part.start, key, connector)
        else:
            found[where] = load_start(key, part, connector)
    return found


def _connector(where: str, start: Start, key: str, connector: Connector) -> Started:
    """A connector from the one of a run: of the same key, or below ``prefix``."""
    if start.rename:
        raise RecipeError(f"{where}: rename is for a safetensors file; in a run give prefix: connectors.KEY.")
    prefix = start.prefix or f"connectors.{key}."
    tensors = _of_run(where, start)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not own:
        parts = sorted({".".join(name.split(".")[:2]) for name in tensors})
        raise RecipeError(f"{where}: {start.path} has learned {', '.join(parts)}, and nothing below {prefix}")
    fill(where, start.path, connector, own)
    return Started(start.path, tuple(sorted(own)), ())


@torch.no_grad()
def _whole(model: MultimodalLM, recipe: Recipe, start: Start) -> Started:
    """Every learned tensor that has its name in the model."""
    learned = tuple(f"{part}." for part in learned_parts(model))
    state = model.state_dict(keep_vars=True)
    if is_run(Path(start.path)):
        tensors = _of_run("start", start)
        _check_tokens(start, recipe, tensors)
        left: list[str] = []
        foreign = sorted(name for name in tensors if name in state and not name.startswith(learned))
        if foreign:
            part = foreign[0].split(".")[0]
            raise RecipeError(
                f"start: {start.path} has trained {part}, which no stage of this recipe trains, so its checkpoints "
                f"would not hold those weights; name {part} under a stage's train"
            )
    else:
        try:
            tensors, left = of_file(start, {name for name in state if name.startswith(learned)})
        except (OSError, ValueError, MmllmError) as error:
            raise RecipeError(f"start: {error}") from error
    taken = {name: tensor for name, tensor in tensors.items() if name in state}
    if not taken:
        raise RecipeError(
            f"start: none of the {len(tensors) + len(left)} tensors of {start.path} has its name in this recipe's "
            f"model; they begin with {_begins(tensors or left)}, the model's with {', '.join(learned)}"
        )
    for name, tensor in taken.items():
        if tensor.shape != state[name].shape:
            raise RecipeError(
                f"start: {name} is {list(tensor.shape)} in {start.path} and {list(state[name].shape)} here; connectors "
                "of one name must be made alike, or be called otherwise"
            )
        state[name].copy_(tensor)
    return Started(start.path, tuple(sorted(taken)), tuple(sorted({*left, *(tensors.keys() - taken.keys())})))


def _check_tokens(start: Start, recipe: Recipe, tensors: Mapping[str, Tensor]) -> None:
    """RecipeError where rows of a run's new tokens would become those of others."""
    own, told = recipe.llm.new_tokens, run_recipe(Path(start.path)).llm.new_tokens
    if own and own != told and any(name.startswith(f"{TOKENS}.") for name in tensors):
        other = next((one for one in told if one not in own), "an order of its own")
        raise RecipeError(
            f"start: {start.path} has learned rows of {len(told)} new tokens, not those of this recipe (the first "
            f"other one: {other}); give llm.tokens as that run has them"
        )


def _begins(names: Mapping[str, Tensor] | list[str]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in names})[:4])


def _of_run(where: str, start: Start) -> dict[str, Tensor]:
    """Learned tensors of a run's newest verified checkpoint, or of a stage of it."""
    run = Path(start.path)
    try:
        recipe = run_recipe(run)
        found, skipped = last_checkpoint(run, recipe, start.stage)
    except MmllmError as error:
        raise RecipeError(f"{where}: {error}") from error
    if found is None:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise RecipeError(f"{where}: {run} has no checkpoint that can be used{why}")
    return read_tensors(found.path / LEARNED)
