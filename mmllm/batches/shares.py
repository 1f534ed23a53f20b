"""What the ranks tell each other of a step: each plans a share of its samples, so that each sample is planned once.

``loader`` asks for a share ahead of time, exchanges it, and gets the whole step's texts in the order they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmllm.batches.sample import PlannedSample
from mmllm.batches.trees import Planned
from mmllm.errors import MmllmError, SampleError

Drawn = tuple[str, int]
"""(data key, index) of a sample."""


@dataclass
class Share:
    """A rank's part of a step; where there are others it is safe to pickle and holds no media."""

    texts: list[Planned | SampleError] = field(default_factory=list)
    """One for each of its samples: SampleError where a sample cannot be used."""
    failure: MmllmError | None = None
    """What keeps the rank from planning; all ranks raise it, so that none waits for it."""


@dataclass(frozen=True)
class Step:
    """A whole step's text."""

    texts: list[Planned]
    drawn: list[Drawn]
    """Where each of ``texts`` is from."""
    bad: list[SampleError]
    """Samples that cannot be used, in the order drawn."""


class Shares:
    """Which samples of a step this rank plans: every ``world``-th."""

    def __init__(self, rank: int, world: int, plan: Callable[[str, int], PlannedSample], shows: bool) -> None:
        """``plan``: of a sample; ``shows``: whether ranks need to know which samples show the same media."""
        self.rank, self.world, self._plan, self._shows = rank, world, plan, shows

    def own(self, drawn: Sequence[Drawn]) -> Share:
        """Plan this rank's share of ``drawn``."""
        share = Share()
        try:
            for name, index in drawn[self.rank :: self.world]:
                try:
                    planned = self._plan(name, index)
                    share.texts.append(planned if self.world == 1 else planned.told(self._shows))
                except SampleError as error:
                    share.texts.append(error)
        except MmllmError as error:
            share.failure = error
        return share

    def together(self, drawn: Sequence[Drawn], shares: Sequence[Share]) -> Step:
        """Put all ranks' shares of ``drawn`` together.

        Raises:
            MmllmError: a rank could not plan.
        """
        failures = [share.failure for share in shares if share.failure is not None]
        if failures:
            raise failures[0]
        step = Step([], [], [])
        for number, place in enumerate(drawn):
            found = shares[number % self.world].texts[number // self.world]
            if isinstance(found, SampleError):
                step.bad.append(found)
            else:
                step.texts.append(found)
                step.drawn.append(place)
        return step
