"""Questions on their way to the model and back: batches about the same media, the next read while one is answered."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING

from mmllm.errors import SampleError
from mmllm.evaluation.benchmarks.base import PER_TOKEN
from mmllm.generation.likelihood import Answers, Likelihood, Likelihoods
from mmllm.types import Sample, identity

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question
    from mmllm.generation.generator import Encoded, Generator


@dataclass(frozen=True)
class Said:
    """What came of one question."""

    text: str
    """The answer, stripped; of ranked options the letter of the likeliest."""
    error: str | None = None
    """Why it could not be asked."""
    confidence: float | None = None
    """Mean probability of the answer's tokens; of ranked options that of the one taken among them."""
    likelihoods: tuple[float, ...] = ()
    """Log likelihood of each option as ranked, where options were."""


def ask(
    generator: Generator, benchmark: Benchmark, questions: Sequence[Question], batch: int, max_new_tokens: int
) -> Iterator[tuple[Sequence[Question], list[Said]]]:
    """Batches of questions with what was said, those about the same media one after the other."""
    ordered = _by_media(questions)
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    asker = _Ranked(generator, benchmark) if benchmark.ranks_options else _Generated(generator, max_new_tokens)
    with ThreadPoolExecutor(max_workers=1) as loader:
        pending = [loader.submit(_read, asker, some) for some in batches[:1]]
        for number, some in enumerate(batches):
            read = pending.pop().result()
            pending += [loader.submit(_read, asker, later) for later in batches[number + 1 : number + 2]]
            fine = iter(asker.answered([one for one in read if not isinstance(one, SampleError)]))  # type: ignore[misc]
            yield some, [Said("", str(one)) if isinstance(one, SampleError) else next(fine) for one in read]


class _Generated:
    """The model writes the answer."""

    def __init__(self, generator: Generator, max_new_tokens: int) -> None:
        self._generator, self._limit = generator, max_new_tokens

    def read(self, question: Question) -> Encoded:
        return self._generator.encode(question.sample)

    def answered(self, read: Sequence[Encoded]) -> list[Said]:
        found = self._generator.generate_encoded(read, self._limit)
        return [Said(one.text.strip(), confidence=one.confidence) for one in found]


class _Ranked:
    """The likeliest option is the answer."""

    def __init__(self, generator: Generator, benchmark: Benchmark) -> None:
        self._benchmark, self._likelihoods = benchmark, Likelihoods(generator)

    def read(self, question: Question) -> Answers:
        return self._likelihoods.encode(question.sample, self._benchmark.candidates(question))

    def answered(self, read: Sequence[Answers]) -> list[Said]:
        return [self._best(found) for found in self._likelihoods.of(read)]

    def _best(self, found: Sequence[Likelihood]) -> Said:
        ranked = [one.per_token if self._benchmark.choice == PER_TOKEN else one.total for one in found]
        best = max(range(len(ranked)), key=ranked.__getitem__)
        share = 1 / sum(math.exp(one - ranked[best]) for one in ranked)
        return Said(ascii_uppercase[best], confidence=share, likelihoods=tuple(ranked))


def _read(asker: _Generated | _Ranked, questions: Sequence[Question]) -> list[Encoded | Answers | SampleError]:
    return [_read_one(asker, question) for question in questions]


def _read_one(asker: _Generated | _Ranked, question: Question) -> Encoded | Answers | SampleError:
    try:
        return asker.read(question)
    except SampleError as error:
        return error  # recorded with the prediction: the question stays in the denominator


def _by_media(questions: Sequence[Question]) -> list[Question]:
    """The questions ordered so that those about the same media follow each other: these are then read once."""
    groups: dict[Hashable, list[Question]] = {}
    # longest first: what does not fit into memory fails in the first minute
    for question in sorted(questions, key=_length, reverse=True):
        groups.setdefault(item_of(question.sample), []).append(question)
    return [question for group in groups.values() for question in group]


def item_of(sample: Sample) -> Hashable:
    """What tells apart what questions are about: their media, or their name; a picture that is no file is like itself
    only."""
    media = sample.media
    return tuple((key, identity(item) or id(item)) for key in sorted(media) for item in media[key]) or sample.name


def _length(question: Question) -> int:
    return sum(len(message.text) for message in question.sample.messages)
