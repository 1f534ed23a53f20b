"""The packed batches of each optimizer step of a stage, for one rank: what the training loop iterates over.

The ranks share the planning of a step's text, find the same bins, and read only the media of their own micro-batches.
A sample that cannot be used is skipped and named on all ranks alike, within the stage's error budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

from mmllm.batches.ahead import Ahead
from mmllm.batches.collate import collate
from mmllm.batches.mixture import Mixture
from mmllm.batches.packing import deal
from mmllm.batches.sample import Encoded, MediaInput, PlannedSample, plan
from mmllm.batches.shares import Share, Shares, Step
from mmllm.batches.teacher import teacher_of
from mmllm.batches.trees import Planned, Tree, dealt, load_tree
from mmllm.errors import MmllmError, SampleError, TooLongError
from mmllm.messages.tokenize import Prompter
from mmllm.types import SEQUENTIAL, Batch, PositionScheme, Sample

_JUDGED_FROM = 100  # fewer samples say too little about the share of bad ones
_LISTED = 20  # bad samples named in the error; the rest is counted


class Source(Protocol):
    """One dataset. SampleError from ``__getitem__`` marks a sample as bad."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; media are paths or bytes, not yet decoded."""
        ...


@dataclass(frozen=True)
class StepBatches:
    """Batches of one rank in one optimizer step."""

    step: int
    micro: list[Batch]
    """Batches of this rank, as many as of every other; one may be empty."""
    n_labels_global: int
    """Supervised positions of the step over all ranks: what the summed loss is divided by."""
    bad: list[SampleError]
    """Samples of the step that were skipped, the same list on every rank."""


@dataclass
class _Prepared:
    """A step before the ranks have told each other which media could not be read."""

    step: int
    n_samples: int
    n_labels: int
    bad: list[SampleError]
    micro: list[Batch]
    unread: list[tuple[str, int]] = field(default_factory=list)
    """(message, label positions lost) of this rank's samples whose media are unreadable."""


def alone(value: Any) -> list[Any]:
    """The ``all_gather`` of a single rank."""
    return [value]


class Loader:
    """Iterates over the steps of a stage from any step on; content depends on neither ``workers`` nor the start.

    ``n_micro`` micro-batches per rank and step, or with a ``budget`` as many as its tokens make necessary; ``most``
    conversations about the same media share their beginning (1: none do); ``in_words``: batches hold their
    conversations in words too (:mod:`mmllm.batches.teacher`); ``max_bad`` the tolerated share of bad samples, judged
    once 100 samples were seen and at the stage's end; ``workers`` threads prepare steps ahead (0: prepare when asked);
    ``pin`` puts batches into memory from which a GPU copies by itself. ``all_gather`` hands every rank the list of all
    ranks' values, in the caller's thread, once per step, and at the start once for each step that is prepared ahead.
    ``state``/``restore`` carry the error budget over a restart; the position is just the number of the next step.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Mapping[str, Source],
        prompter: Prompter,
        inputs: Mapping[str, MediaInput],
        context: int,
        *,
        scheme: PositionScheme = SEQUENTIAL,
        rank: int = 0,
        world: int = 1,
        n_micro: int = 1,
        budget: int | None = None,
        most: int = 1,
        in_words: bool = False,
        max_bad: float = 0.01,
        workers: int = 0,
        pin: bool = False,
        all_gather: Callable[[Any], list[Any]] = alone,
    ) -> None:
        self.mixture, self.sources, self.prompter, self.inputs = mixture, sources, prompter, inputs
        self.context, self.rank, self.world, self.n_micro = context, rank, world, n_micro
        self.budget, self.max_bad, self.workers = budget, max_bad, workers
        # one rank hands itself its plans as they are: process groups of one would pickle them
        self.all_gather = alone if world == 1 else all_gather
        self.scheme, self.pin = scheme, pin
        self.most, self.in_words = most, in_words
        self.shares = Shares(rank, world, self._plan, shows=most > 1)
        self.seen = 0
        """Samples of the stage so far, bad ones included."""
        self.n_bad = 0
        self.bad: list[str] = []
        """The first bad samples of the stage, as sentences."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the error budget after the steps handed out so far. JSON values."""
        return {"seen": self.seen, "n_bad": self.n_bad, "bad": list(self.bad)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over ``state()`` of the run that is continued."""
        self.seen, self.n_bad, self.bad = int(state["seen"]), int(state["n_bad"]), list(state["bad"])

    def steps(self, start: int = 0) -> Iterator[StepBatches]:
        """Steps ``start`` .. the last. MmllmError: over the error budget."""
        # Threads, not processes (compared in benchmarks/speed/readers.py): decoding runs outside the interpreter's lock
        # or in its own killable process, and a thread hands tensors over without copying or pickling them.
        with Ahead(self.workers) as ahead:
            yield from self._steps(range(start, self.mixture.n_steps), ahead)

    def _steps(self, steps: range, ahead: Ahead) -> Iterator[StepBatches]:
        planned = ahead.each(self._plan_share, steps, self.workers)
        exchanged = iter(steps)
        prepared: deque[Callable[[], _Prepared]] = deque()
        for step in islice(exchanged, self.workers + 1):
            told = self.all_gather(([], next(planned)()))
            prepared.append(ahead.submit(self._prepare, step, self._whole(step, told)))
        for _ in steps:
            # in the order of steps, whichever thread was faster: content may not depend on timing
            result = prepared.popleft()()
            further = next(exchanged, None)
            told = self.all_gather((result.unread, None if further is None else next(planned)()))
            if further is not None:
                prepared.append(ahead.submit(self._prepare, further, self._whole(further, told)))
            yield self._accounted(result, [item for unread, _ in told for item in unread])

    def __iter__(self) -> Iterator[StepBatches]:
        """All steps from the first."""
        return self.steps()

    # ---- one step

    def _plan_share(self, step: int) -> Share:
        """Plan this rank's samples of a step. Runs in a worker."""
        return self.shares.own(self.mixture.step(step))

    def _whole(self, step: int, told: list[tuple[Any, Share]]) -> Step:
        """Put together what the ranks planned of a step."""
        return self.shares.together(self.mixture.step(step), [share for _, share in told])

    def _prepare(self, step: int, whole: Step) -> _Prepared:
        """Read and pack this rank's part of a step. Runs in a worker; touches no state of the loader."""
        keys = [name for name, _ in whole.drawn]
        bins = dealt(whole.texts, keys, most=self.most, budget=self.budget, n_micro=self.n_micro, world=self.world)
        n_labels = sum(text.n_labels for text in whole.texts)
        prepared = _Prepared(step, len(whole.texts) + len(whole.bad), n_labels, whole.bad, [])
        for members in deal(bins, self.rank, self.world):
            encoded: list[Encoded] = []
            taught: list[Encoded] = []
            for tree in members:
                plans = self._plans(tree, whole)
                name = whole.drawn[tree.members[0]][0]
                try:
                    found = load_tree(tree, plans, self.inputs, name, self.scheme)
                    taught += [self._taught(one) for one in plans.values()] if self.in_words else []
                    encoded.append(found)
                except SampleError as error:
                    prepared.unread += _unread(str(error), [whole.texts[number] for number in tree.members])
            batch = collate(encoded, self.inputs, self.scheme)
            if self.in_words:
                batch = replace(batch, teacher=collate(taught, self.inputs, self.scheme))
            prepared.micro.append(batch.pinned() if self.pin else batch)
        return prepared

    def _plans(self, tree: Tree, whole: Step) -> dict[int, PlannedSample]:
        """The samples of a tree, which any rank may have planned."""
        plans = {}
        for number in tree.members:
            (name, index), text = whole.drawn[number], whole.texts[number]
            if not isinstance(text, PlannedSample):
                text = text.of(self.sources[name][index], self.prompter)
            plans[number] = text
        return plans

    def _taught(self, planned: PlannedSample) -> Encoded:
        return teacher_of(planned, self.inputs, self.context)

    def _plan(self, name: str, index: int) -> PlannedSample:
        planned = plan(self.sources[name][index], self.prompter, self.inputs, self.context, train=True)
        if self.budget is not None and planned.length > self.budget:
            raise TooLongError(
                f"{planned.sample.name}: {planned.length} tokens are over the stage's tokens of {self.budget} for one "
                "forward; nothing is cut: raise tokens, or shorten it"
            )
        if self.in_words:
            self._taught(planned)  # here, where a sample that cannot be used is named and left out
        return planned

    def _accounted(self, prepared: _Prepared, unread: list[tuple[str, int]]) -> StepBatches:
        """Keep the books of a step, ``unread`` media of all ranks among them, and stop when too much is bad."""
        bad = prepared.bad + [SampleError(message) for message, _ in unread]
        # The loss is divided by the labels of the whole step, so a rank must know what others could not read.
        n_labels = prepared.n_labels - sum(lost for _, lost in unread)
        self.seen += prepared.n_samples
        self.n_bad += len(bad)
        self.bad += [str(error) for error in bad][: _LISTED - len(self.bad)]
        last = prepared.step + 1 == self.mixture.n_steps
        # not before _JUDGED_FROM samples: one bad sample of the first three is no share worth stopping for
        if self.n_bad > self.max_bad * self.seen and (self.seen >= _JUDGED_FROM or last):
            more = f"\n  ... and {self.n_bad - len(self.bad)} more" if self.n_bad > len(self.bad) else ""
            raise MmllmError(
                f"{self.n_bad} of {self.seen} samples are bad, over the stage's max_bad of {self.max_bad:g}:\n  "
                + "\n  ".join(self.bad)
                + more
            )
        return StepBatches(prepared.step, prepared.micro, n_labels, bad)


def _unread(message: str, members: Sequence[Planned]) -> list[tuple[str, int]]:
    """A sentence, and the labels lost, for each sample of a tree whose media cannot be read."""
    first = members[0].name
    return [(message.replace(first, one.name, 1), one.n_labels) for one in members]
