"""Arguments of a dataset with what only the whole recipe tells; training and `mmllm check` open data with them."""

from __future__ import annotations

from typing import Any

from mmllm.errors import RecipeError
from mmllm.recipe.models import Recipe
from mmllm.recipe.part_arguments import accepted, default_of


def dataset_arguments(recipe: Recipe, key: str) -> dict[str, Any]:
    """Arguments of the dataset ``key``: the recipe's, and how its picture encoder fits pictures where boxes need it.

    Raises:
        RecipeError: boxes count in pictures, and the recipe's encoders of pictures fit them in several ways.
    """
    args = dict(recipe.data[key].args)
    boxes = args.get("boxes")
    if not isinstance(boxes, dict) or "fit" in boxes:
        return args
    fits = {}
    for name, part in recipe.encoders.items():
        known = accepted("encoders", part.type)
        if "fit" in known:
            fits[name] = str(part.args.get("fit", default_of(known["fit"])))
    if len(set(fits.values())) > 1:
        said = ", ".join(f"encoders.{name} {fit}" for name, fit in fits.items())
        raise RecipeError(f"data.{key}.boxes: the encoders fit pictures differently ({said}); write fit there")
    return args | {"boxes": {**boxes, "fit": next(iter(fits.values()), "squash")}}
