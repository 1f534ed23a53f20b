"""`mmllm check --build`: what shows only when the parts meet, before any weight is loaded.

Grids and widths between encoders, connectors and LLM, shapes of what a recipe starts from, first rows of the data as
training reads them.
"""

from __future__ import annotations

from mmllm.batches.sample import encode
from mmllm.batches.teacher import in_words
from mmllm.checkpoints.start import start_weights
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_declared
from mmllm.model.trainable import set_trainable
from mmllm.planning.layout import laid_out
from mmllm.recipe.models import Recipe
from mmllm.training.distributed import resolved
from mmllm.training.met_items import MetItems
from mmllm.training.stage_data import datasets_of, mixture_of

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
            set_trainable(model, stage.train)
            if stage.share_prefix is not None:
                check_declared(model, where)
            bad, n_read, n_rows = _unusable(recipe, name, model)
        except MmllmError as error:
            refused.setdefault(str(error).removeprefix(f"{where}."), []).append(where)
            continue
        over = len(bad) > stage.max_bad * n_read
        if bad and len(bad) == n_read:
            refused.setdefault(f"none of the first {n_read} rows can be used; {bad[0]}", []).append(where)
        elif over and n_read == n_rows:
            sentence = f"{len(bad)} of {n_read} rows cannot be used, more than max_bad: {stage.max_bad:g}; {bad[0]}"
            refused.setdefault(sentence, []).append(where)
        elif bad:
            end = f" It stops where more than max_bad: {stage.max_bad:g} of them are bad." if over else ""
            skipped.append(f"{where}: training skips {len(bad)} of the first {n_read} rows; {bad[0].rstrip('.')}.{end}")
    return [f"{', '.join(places)}: {sentence}" for sentence, places in refused.items()], skipped


def _unusable(recipe: Recipe, name: str, model: MultimodalLM) -> tuple[list[str], int, int]:
    """Sentences on rows that training would skip, how many rows were read, and how many there are.

    Raises:
        MmllmError: data cannot be opened, or what learns in the stage has nothing to learn from in the rows read.
    """
    stage = recipe.stages[name]
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
    # with a budget no forward may have more: what is over it is bad, as in training
    limit = min(recipe.llm.context, stage.tokens or recipe.llm.context)
    bad, n_read = [], 0
    datasets = datasets_of(recipe, stage)
    mixture_of(recipe, name, datasets)  # its steps are counted there
    items = MetItems(model, stage.train, name)
    for dataset in datasets.values():
        for index in range(min(ROWS, len(dataset))):
            n_read += 1
            try:
                if stage.distill is not None:
                    in_words(dataset[index])
                items.met |= encode(dataset[index], prompter, model.inputs, limit, train=True).media.keys()
            except SampleError as error:
                bad.append(str(error))
    n_rows = sum(map(len, datasets.values()))
    if n_read == n_rows and len(bad) < n_read:
        for key, places in items.unmet(items.met):
            raise MmllmError(f"connectors.{key} learns, and none of the {n_read} rows shows {places}")
    return bad, n_read, n_rows
