"""The data of one stage: its datasets, the order of its samples, and the loader that gives its batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmllm.batches.loader import Loader
from mmllm.batches.mixture import Mixture
from mmllm.batches.together import Together, by_media
from mmllm.checkpoints.store import all_gather, rank
from mmllm.datasets.base import Dataset
from mmllm.datasets.opening import open_dataset
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.recipe.models import Recipe, Stage
from mmllm.training import distributed
from mmllm.training.deepspeed_config import micro_batches

_WORKERS = 4  # threads that read media ahead of a GPU; on a CPU they would take its cores


def datasets_of(recipe: Recipe, stage: Stage) -> dict[str, Dataset]:
    """Data key -> opened dataset, of those that the stage reads."""
    return {key: open_dataset(recipe, key) for key in stage.data}


def mixture_of(recipe: Recipe, name: str, datasets: Mapping[str, Dataset]) -> Mixture:
    """The order in which stage ``name`` goes through its data."""
    stage, number = recipe.stages[name], list(recipe.stages).index(name)
    sharing = stage.share_prefix
    return Mixture(
        datasets,
        stage.data,
        distributed.derive_seed(recipe.seed, number),
        batch=stage.batch,
        epochs=stage.epochs,
        steps=stage.steps,
        together=None if sharing is None else Together(by_media(datasets), sharing.most, sharing.reach),
    )


def loader_of(
    recipe: Recipe, name: str, model: MultimodalLM, datasets: Mapping[str, Dataset], device: torch.device
) -> Loader:
    """The loader of stage ``name`` on this rank."""
    stage = recipe.stages[name]
    workers = _WORKERS if device.type == "cuda" else 0
    return Loader(
        mixture_of(recipe, name, datasets),
        datasets,
        Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix),
        model.inputs,
        recipe.llm.context,
        scheme=model.llm.positions,
        rank=rank(),
        world=distributed.world(),
        n_micro=micro_batches(stage, distributed.world(), f"stages.{name}")[1],
        budget=stage.tokens,
        most=1 if stage.share_prefix is None else stage.share_prefix.most,
        in_words=stage.distill is not None,
        max_bad=stage.max_bad,
        workers=workers if stage.workers is None else stage.workers,
        pin=device.type == "cuda",
        all_gather=all_gather,
    )
