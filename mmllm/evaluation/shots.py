"""Few-shot: solved questions of a training split in front of each question, their media shown too.

The same ones for every question, drawn once by a seed, so that what they take is read once. A question never stands in
front of itself, nor does one about the same media: the next drawn takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.evaluation import digests
from mmllm.evaluation.metrics.vqa import normalise
from mmllm.types import Message, identity

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question

RESERVE = 16
"""Questions drawn beyond the wanted ones, for those in front of which one of them may not stand."""


@dataclass(frozen=True)
class Shots:
    """Solved questions and how many of them stand in front of a question."""

    n: int
    seed: int
    drawn: Sequence[Question]
    """The wanted ones and a reserve, in the order drawn."""
    answers: Sequence[str]
    """What is said to each."""
    files: Mapping[str, str]
    """Digests of the files that they are from."""
    used: set[int] = field(default_factory=set)

    def before(self, question: Question) -> Question:
        """The question behind the shots; MmllmError where too few may stand in front of it."""
        fit = [number for number, one in enumerate(self.drawn) if not _alike(one, question)][: self.n]
        if len(fit) < self.n:
            raise MmllmError(
                f"{question.sample.name}: {len(fit)} of {len(self.drawn)} drawn questions may stand in front of it and "
                f"{self.n} shots are wanted; the others are about the same media: take shots of another split"
            )
        self.used.update(fit)
        own = question.sample.messages
        system = [message for message in own[:1] if message.role == "system"]
        solved = [
            message
            for number in fit
            for message in (
                *(one for one in self.drawn[number].sample.messages if one.role != "system"),
                Message("assistant", self.answers[number]),
            )
        ]
        samples = [*(self.drawn[number].sample for number in fit), question.sample]
        keys = dict.fromkeys(key for sample in samples for key in sample.media)
        media = {key: tuple(item for sample in samples for item in sample.media.get(key, ())) for key in keys}
        messages = (*system, *solved, *own[len(system) :])
        return replace(question, sample=replace(question.sample, messages=messages, media=media))

    @property
    def key(self) -> list[Any]:
        """All of them that an answer may depend on, for a digest."""
        return [self.n, self.seed, [one.sample.name for one in self.drawn], list(self.answers), dict(self.files)]

    @property
    def record(self) -> dict[str, Any]:
        """What stands beside the score."""
        names = [self.drawn[number].sample.name for number in sorted(self.used)]
        return {"n": self.n, "seed": self.seed, "names": names, "files": dict(self.files)}


def shots_of(benchmark: Benchmark, type: str, arguments: Mapping[str, Any], asked: int | Mapping[str, Any]) -> Shots:
    """Draw the shots of a benchmark.

    Args:
        benchmark: the questions that are asked.
        type: its registered name.
        arguments: of its class.
        asked: how many, or ``{n, seed, ...}`` where the rest are arguments of the class that say which questions are
            drawn from, in place of the benchmark's own: ``{n: 4, path: my/train.json}``. Default: its split ``train``.

    Raises MmllmError where there are none, or their answers are no texts.
    """
    given = {"n": asked} if isinstance(asked, int) else dict(asked)
    n, seed = given.pop("n", 0), given.pop("seed", 0)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 or not isinstance(seed, int):
        raise MmllmError(f"{benchmark.name}.shots: found {asked!r}; write a number above 0, or {{n: 4, seed: 0}}.")
    if not given and "split" not in registry.parameters("benchmarks", type):
        raise MmllmError(
            f"{benchmark.name}.shots: {type} has no split; say where shots are: shots: {{n: {n}, path: FILE}}."
        )
    source = {**arguments, **(given or {"split": "train"})}
    try:
        split = registry.load("benchmarks", type)(**source)
        order = np.random.default_rng(seed).permutation(len(split))[: n + RESERVE].tolist()
        drawn = [split[index] for index in order]
    except (MmllmError, TypeError) as error:
        raise MmllmError(f"{benchmark.name}.shots: {error}") from error
    answers = [_answer(benchmark, one) for one in drawn]
    return Shots(n, seed, drawn, answers, digests.of_files(split.files))


def _answer(benchmark: Benchmark, question: Question) -> str:
    """What is said to a question: what most annotators said, of options the letter, or the text where texts are
    ranked."""
    if not all(isinstance(one, str) for one in question.reference):
        raise MmllmError(f"{benchmark.name}.shots: the answer to {question.sample.name} is a box, which is no shot.")
    texts = [str(one) for one in question.reference]
    if question.options:
        return texts[0] if benchmark.lists_options else texts[1]
    most = Counter(map(normalise, texts)).most_common(1)[0][0]
    return next(text for text in texts if normalise(text) == most)


def _alike(one: Question, other: Question) -> bool:
    """Whether two are the same question, or about an item in common."""
    return bool(_shown(one) & _shown(other)) or (one.text == other.text and not _shown(one) and not _shown(other))


def _shown(question: Question) -> set[Any]:
    return {identity(item) or id(item) for items in question.sample.media.values() for item in items}
