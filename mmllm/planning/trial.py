"""`mmllm check --build`: what shows only when the parts meet, before any weight is loaded.

Grids and widths between encoders, connectors and LLM, shapes of what a recipe starts from, first rows of the data as
training reads them.
"""

from __future__ import annotations

import sys
from itertools import islice

from mmllm.batches.sample import encode
from mmllm.checkpoints.start import start_weights
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.planning.layout import laid_out
from mmllm.recipe.models import Recipe, Stage
from mmllm.training.distributed import resolved
from mmllm.training.stage_data import datasets_of

ROWS = 20
"""First rows of each dataset that are read."""


def problems(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Lay the model out without numbers, fill what has a start, read the first rows of every stage.

    Returns sentences on what training refuses, and on rows that it would skip.
    """
    recipe = resolved(recipe)
    refused: dict[str, list[str]] = {}
    skipped: list[str] = []
    try:
        model = laid_out(recipe)
        start_weights(model, recipe)
    except MmllmError as error:
        return [str(error)], []
    for name, stage in recipe.stages.items():
        where = f"stages.{name}"
        try:
            bad, n_read = _unusable(recipe, stage, model)
        except MmllmError as error:
            refused.setdefault(str(error), []).append(where)
            continue
        if bad and len(bad) == n_read:
            refused.setdefault(f"none of the first {n_read} rows can be used; {bad[0]}", []).append(where)
        elif bad:
            skipped.append(f"{where}: training skips {len(bad)} of the first {n_read} rows; {bad[0]}")
    return [f"{', '.join(places)}: {sentence}" for sentence, places in refused.items()], skipped


def _unusable(recipe: Recipe, stage: Stage, model: MultimodalLM) -> tuple[list[str], int]:
    """Sentences on rows that training would skip, and how many rows were read."""
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn)
    # with a budget no forward may have more: what is over it is bad, as in training
    limit = min(recipe.llm.context, stage.tokens or sys.maxsize)
    bad, n_read = [], 0
    for dataset in datasets_of(recipe, stage).values():
        for index in islice(range(len(dataset)), ROWS):
            n_read += 1
            try:
                encode(dataset[index], prompter, model.inputs, limit, train=True)
            except SampleError as error:
                bad.append(str(error))
    return bad, n_read
