"""A run as a folder that can leave this machine: recipe, what was learned, digests of the rest (``--to run``)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.store import replace_text
from mmllm.exporting.places import portable
from mmllm.generation.model import Model
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import trainable_state
from mmllm.published.comparison import Stage
from mmllm.recipe.load import dump
from mmllm.recipe.models import Recipe


def write_run(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A run folder without states of training; opened anew, it has the same learned tensors and frozen digests.

    Its recipe names local parts by their folders' names: who has them elsewhere says where (``llm.path=...``).
    """
    template = recipe.llm.template
    if template is not None and Path(template).is_file():
        shutil.copyfile(template, folder / Path(template).name)
    Model(model, recipe).save_pretrained(folder)
    learned = trainable_state(model)
    _, again = load_run(folder, "cpu")  # CheckpointError where a frozen part has another digest
    there = trainable_state(again)
    other = [name for name, tensor in learned.items() if not torch.equal(tensor, there[name])]
    yield Stage("learned tensors", float(bool(other)), 0, other[0] if other else "")
    replace_text(folder / "recipe.yaml", dump(portable(recipe)))
