"""A recipe's dataset as training reads it: opened with what only the whole recipe tells, under its ``system:``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmllm import registry
from mmllm.datasets.base import Dataset
from mmllm.messages.system import with_system
from mmllm.recipe.dataset_arguments import dataset_arguments
from mmllm.recipe.models import Recipe
from mmllm.types import Sample


def open_dataset(recipe: Recipe, key: str) -> Dataset:
    """The dataset ``data.<key>``; MmllmError as its class raises it."""
    part = recipe.data[key]
    made: Dataset = registry.load("datasets", part.type)(**dataset_arguments(recipe, key))
    return made if part.system is None else WithSystem(made, part.system)


class WithSystem(Dataset):
    """A dataset whose conversations have a system message where they had none."""

    def __init__(self, dataset: Dataset, text: str) -> None:
        """``text``: of the message; the recipe holds it, so that digests are those of the dataset itself."""
        self._dataset, self._text = dataset, text
        self.name, self.summary, self.blocks = dataset.name, dataset.summary, dataset.blocks

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        """The dataset's sample under the system message."""
        return with_system(self._dataset[index], self._text)

    def digest(self) -> str:
        """Of the dataset itself."""
        return self._dataset.digest()

    @property
    def files(self) -> Sequence[Path]:
        """Of the dataset itself."""
        return self._dataset.files
