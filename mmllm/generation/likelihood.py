"""How likely a model finds given answers: each scored as its next turn, over one reading of what they share.

Beside ``generator``, which lets the model say an answer of its own. Evaluation ranks the options of a question so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, PlannedSample, load_media, plan
from mmllm.batches.trees import load_tree, tree_of
from mmllm.errors import RecipeError
from mmllm.messages.system import with_system
from mmllm.model.sharing import check_sharing
from mmllm.types import IGNORE_INDEX, Message, Sample

if TYPE_CHECKING:
    from mmllm.generation.generator import Generator

POSITIONS = 4096
"""Most positions of a pass, unless one conversation with its answers has more."""


@dataclass(frozen=True)
class Likelihood:
    """Of one answer."""

    total: float
    """Log likelihood of its tokens, the end of the turn included, in nats."""
    n_tokens: int

    @property
    def per_token(self) -> float:
        """Mean log likelihood of a token, in nats."""
        return self.total / self.n_tokens


@dataclass(frozen=True)
class Answers:
    """A conversation with the answers to score, its media read."""

    rows: tuple[Encoded, ...]
    """One tree of all answers, or a conversation for each."""
    counts: tuple[int, ...]
    """Tokens of each answer."""

    @property
    def length(self) -> int:
        """Positions that it takes."""
        return sum(len(row.ids) for row in self.rows)


class Likelihoods:
    """Scores given answers by a model."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    @cached_property
    def shares(self) -> bool:
        """Whether answers may share one reading of the conversation: with these parts each scores as alone."""
        try:
            check_sharing(self._generator.model, "likelihood")
        except RecipeError:
            return False
        return True

    def encode(self, sample: Sample, answers: Sequence[str]) -> Answers:
        """Tokens and media of a conversation whose last message is the user's, with each of the answers to it.

        On the CPU; safe to call from a loader thread. Raises SampleError as ``Generator.encode`` does; what has to fit
        the context is the longest answer too.
        """
        generator = self._generator
        sample = with_system(sample, generator.system)
        plans = [
            _last_alone(
                plan(
                    _answered(sample, answer), generator.prompter, generator.reading, generator.llm.context, train=True
                )
            )
            for answer in answers
        ]
        tree = tree_of(plans) if self.shares else None
        if tree is None:
            rows = tuple(load_media(one, generator.reading) for one in plans)
        else:
            rows = (load_tree(tree, dict(enumerate(plans)), generator.reading, scheme=generator.llm.positions),)
        return Answers(rows, tuple(one.n_labels for one in plans))

    def of(self, some: Sequence[Answers]) -> list[list[Likelihood]]:
        """Log likelihoods of the answers to each conversation."""
        return [found for group in _groups(some) for found in self._pass(group)]

    def _pass(self, some: Sequence[Answers]) -> list[list[Likelihood]]:
        model = self._generator.model
        batch = collate([row for one in some for row in one.rows], model.inputs, model.llm.positions)
        found = iter(model.log_likelihoods(batch.to(model.llm.device)).double().tolist())
        return [[Likelihood(sum(next(found) for _ in range(count)), count) for count in one.counts] for one in some]


def _answered(sample: Sample, answer: str) -> Sample:
    return replace(sample, messages=(*sample.messages, Message("assistant", answer)))


def _last_alone(planned: PlannedSample) -> PlannedSample:
    """Without the labels of what the assistant said before the last turn."""
    labels = list(planned.prompt.labels)
    end = next(place for place in range(len(labels), 0, -1) if labels[place - 1] != IGNORE_INDEX)
    start = next((place for place in range(end, 0, -1) if labels[place - 1] == IGNORE_INDEX), 0)
    labels[:start] = [IGNORE_INDEX] * start
    # nothing precedes the first position, so nothing predicts it
    return replace(planned, prompt=replace(planned.prompt, labels=labels), n_labels=end - max(start, 1))


def _groups(some: Sequence[Answers]) -> Iterator[list[Answers]]:
    """In order, as many at once as a pass has positions for."""
    group: list[Answers] = []
    for one in some:
        if group and sum(other.length for other in group) + one.length > POSITIONS:
            yield group
            group = []
        group.append(one)
    if group:
        yield group
