"""Brings samples about the same media together inside optimizer steps, where conversations share their beginning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmllm.errors import SampleError
from mmllm.types import Sample, identity


class Readable(Protocol):
    """A dataset; its samples' media are not decoded."""

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; SampleError where it is bad."""
        ...


Drawn = tuple[str, int]
"""(dataset name, index) of a sample."""

_AHEAD = 64
"""Groups among which one is sought that still fits into a step."""


@dataclass(frozen=True)
class Together:
    """How samples move within windows of an epoch's order. Which samples an epoch has stays as it is."""

    about: Callable[[str, int], Hashable | None]
    """(dataset name, index) -> equal for samples about the same media; None: it stays by itself."""
    most: int
    """Samples about the same media in one step at most."""
    reach: int | None = None
    """Samples of a window; None: the whole epoch."""

    def ordered(self, drawn: Sequence[Drawn], first: int, batch: int) -> list[Drawn]:
        """The samples of a window in another order, a pure function; ``first`` is the window's first position in the
        stage, whose steps have ``batch`` samples each.

        Samples about the same media stand where the first of them stood. Those that would cross a step's border wait,
        and a smaller group takes the rest of the step; where there is none, they are split.
        """
        groups: dict[Hashable, list[Drawn]] = {}
        for one in drawn:
            # a sample without a key is a group of its own
            groups.setdefault(self.about(*one) or ("alone", one, len(groups)), []).append(one)
        waiting = deque(
            members[start : start + self.most]
            for members in groups.values()
            for start in range(0, len(members), self.most)
        )
        found: list[Drawn] = []
        while waiting:
            room = batch - (first + len(found)) % batch
            ahead = range(min(_AHEAD, len(waiting)))
            place = next((number for number in ahead if len(waiting[number]) <= room), None)
            if place is None:
                found += waiting[0][:room]
                waiting[0] = waiting[0][room:]
                continue
            found += waiting[place]
            del waiting[place]
        return found


def by_media(sources: Mapping[str, Readable]) -> Callable[[str, int], Hashable | None]:
    """``about`` of a stage's datasets: its name and the sample's media, as its file names them."""

    def about(name: str, index: int) -> Hashable | None:
        try:
            media = sources[name][index].media
        except SampleError:  # it is named in its step
            return None
        items = [(place, identity(item)) for place in sorted(media) for item in media[place]]
        return None if not items or any(known is None for _, known in items) else (name, tuple(items))

    return about
