"""What a stage feeds its model: tokens, labels and items of its first steps, and the fullest micro-batch of them.

Planned as in training, from the recipe's own data: the same mixture, tokenizer, places and packing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, PlannedSample, plan
from mmllm.batches.teacher import teacher_of
from mmllm.batches.trees import Tree, dealt, load_tree
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.recipe.models import Recipe, Stage
from mmllm.training.stage_data import datasets_of, mixture_of
from mmllm.types import Batch, identity

MOST = 512
"""Conversations that are looked at; of a longer stage the first."""


@dataclass(frozen=True)
class Workload:
    """A stage's data, as far as they were looked at."""

    n_steps: int
    """Optimizer steps of the stage."""
    n_samples: int
    """Conversations of the stage, repeats counted."""
    steps: tuple[tuple[PlannedSample, ...], ...]
    """Usable conversations of each of the first steps."""
    keys: tuple[tuple[str, ...], ...]
    """Data key of each of them."""
    bad: tuple[str, ...]
    """Sentences on those that training would skip."""
    rows: int
    """Different conversations that the stage reads."""
    limit: int
    """Most tokens of a conversation."""

    @property
    def samples(self) -> list[PlannedSample]:
        """All conversations that were looked at."""
        return [sample for step in self.steps for sample in step]

    def mean(self, values: Iterable[int]) -> float:
        """Mean of a number over the conversations that were looked at."""
        found = list(values)
        return sum(found) / len(found)


def workload(recipe: Recipe, stage: str, model: MultimodalLM) -> Workload:
    """Plan the first steps of a stage; ``model`` may be one without numbers.

    Raises:
        MmllmError: data that are not there, or none that can be used.
    """
    settings = recipe.stages[stage]
    datasets = datasets_of(recipe, settings)
    mixture = mixture_of(recipe, stage, datasets)
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
    # with a budget no forward may have more: what is over it is bad, as in training
    limit = min(recipe.llm.context, settings.tokens or recipe.llm.context)
    steps, keys, bad = [], [], []
    for number in range(min(mixture.n_steps, max(1, MOST // settings.batch))):
        step: list[PlannedSample] = []
        names: list[str] = []
        for name, index in mixture.step(number):
            try:
                planned = plan(datasets[name][index], prompter, model.inputs, limit, train=True)
                if settings.distill is not None:
                    teacher_of(planned, model.inputs, limit)
                step.append(planned)
                names.append(name)
            except SampleError as error:
                bad.append(str(error))
        steps.append(tuple(step))
        keys.append(tuple(names))
    if not any(steps):
        raise MmllmError(f"stages.{stage}: none of the first {len(bad)} conversations can be used: {bad[0]}")
    rows = sum(len(dataset) for dataset in datasets.values())
    least = min(rows, mixture.n_samples)
    return Workload(mixture.n_steps, mixture.n_samples, tuple(steps), tuple(keys), tuple(bad), least, limit)


def fullest(found: Workload, stage: Stage, n_micro: int, world: int, model: MultimodalLM) -> Batch:
    """The micro-batch with most tokens where each step is dealt to ``world`` ranks, its media read.

    ``n_micro`` of them on each rank, or as many as the stage's ``tokens`` make necessary.

    Raises:
        MmllmError: its media cannot be read.
    """
    bins: list[tuple[int, list[Tree]]] = []
    for number, (plans, keys) in enumerate(zip(found.steps, found.keys, strict=True)):
        most = 1 if stage.share_prefix is None else stage.share_prefix.most
        step = dealt(plans, keys, most=most, budget=stage.tokens, n_micro=n_micro, world=world)
        bins += [(number, one) for one in step if one]
    number, chosen = max(bins, key=lambda one: sum(tree.length for tree in one[1]))
    encoded: list[Encoded] = []
    taught: list[Encoded] = []
    bad = []
    members = dict(enumerate(found.steps[number]))
    for tree in chosen:
        try:
            key = found.keys[number][tree.members[0]]
            encoded.append(load_tree(tree, members, model.inputs, key, model.llm.positions))
            if stage.distill is not None:
                taught += [teacher_of(members[one], model.inputs, found.limit) for one in tree.members]
        except SampleError as error:
            bad.append(str(error))
    if not encoded:
        raise MmllmError(f"no conversation of the fullest micro-batch can be read: {bad[0]}")
    batch = collate(encoded, model.inputs, model.llm.positions)
    if stage.distill is not None:
        return replace(batch, teacher=collate(taught, model.inputs, model.llm.positions))
    return batch


def items(found: Workload) -> Mapping[str, float]:
    """Placeholder -> different items for each different conversation, of those that were looked at."""
    media: dict[str, set[Any]] = {}
    for sample in found.samples:
        for key, some in sample.sample.media.items():
            media.setdefault(key, set()).update(identity(item) or id(item) for item in some)
    names = {sample.sample.name for sample in found.samples}
    return {key: len(different) / len(names) for key, different in media.items() if different}
