"""What each position of a packed row may attend to, read once per forward and handed to every layer of the LLM.

Conversations lie end to end. One that begins like others may be a tree: a shared prefix, then continuations that each
see the prefix and themselves (``Batch.segments``). Stretches that are not causal (``Batch.bidirectional``) cut their
conversation into runs of queries, so each kernel sees a plain rectangle or triangle and no mask is over a whole row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch

from mmllm.llms.scoring import seen_from
from mmllm.types import Bidirectional, Segment


@dataclass(frozen=True)
class SharedKeys:
    """Queries beside each other that see the same keys, each up to its own or all: one call of a kernel."""

    queries: tuple[int, int]
    """Start and end in the row of queries."""
    keys: tuple[tuple[int, int], ...]
    """Starts and ends in the row of keys and values; their sum is K."""
    places: tuple[int, ...] | None = None
    """Which of the K keys is each query's own. None: the last keys, in order."""
    ahead: bool = False
    """Whether a query sees the keys behind its own as well: it is in a bidirectional stretch."""
    windowed: bool = True
    """Whether a window ends what it sees before its own."""
    masks: dict[tuple[int | None, torch.device], torch.Tensor] = field(default_factory=dict, compare=False)
    """(window, device) -> the mask, made once for all layers."""

    @property
    def n_queries(self) -> int:
        """Number of queries."""
        return self.queries[1] - self.queries[0]

    @property
    def n_keys(self) -> int:
        """K."""
        return sum(end - start for start, end in self.keys)

    def of_keys(self, states: torch.Tensor) -> torch.Tensor:
        """float[1, heads, K, d] of a row float[1, heads, S, d]."""
        found = [states[:, :, start:end] for start, end in self.keys]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor | None:
        """bool[queries, K]: True where a query sees a key, at most ``window`` keys back, itself included; None: all."""
        if self.ahead and (window is None or not self.windowed or window >= self.n_keys):
            return None
        found = self.masks.get((window, device))
        if found is None:
            own = range(self.n_keys - self.n_queries, self.n_keys) if self.places is None else self.places
            made = seen_from(torch.tensor(own), self.n_keys, window, self.ahead)
            found = self.masks[window, device] = made.to(device)
        return found

    def near(self, window: int | None) -> SharedKeys:
        """The same without the keys that no query's window reaches."""
        far = 0 if window is None or not self.windowed else self.n_keys - self.n_queries - window + 1
        if far <= 0 or self.places is not None:
            return self
        keys = []
        for start, end in self.keys:
            left = min(far, end - start)
            far -= left
            if start + left < end:
                keys.append((start + left, end))
        return replace(self, keys=tuple(keys), masks={})

    def at(self, positions: Sequence[int], first: int) -> SharedKeys:
        """The same keys seen by some of the queries, at these positions of the row; theirs begins at ``first``."""
        before = self.n_keys - self.n_queries - self.queries[0]
        places = tuple(before + position for position in positions)
        keys = self.keys
        if not self.ahead:  # nothing behind the last of them is seen
            keys = (*keys[:-1], (keys[-1][0], keys[-1][1] - (self.n_keys - places[-1] - 1)))
        return replace(self, queries=(first, first + len(positions)), keys=keys, places=places, masks={})


@dataclass(frozen=True)
class Rows:
    """Runs for one call of a kernel over rows of unequal lengths: the last query of each sees its last key."""

    index: torch.Tensor
    """int64[M] of the queries."""
    keys: torch.Tensor
    """int64[K'] of the keys, run after run."""
    bounds: tuple[torch.Tensor, torch.Tensor]
    """int32: where the queries of each run begin and end, and its keys."""
    longest: tuple[int, int]
    """Most queries of a run, and most keys."""

    @classmethod
    def of(cls, runs: Sequence[SharedKeys], device: torch.device) -> Rows:
        """Put them end to end."""
        keys = torch.cat([torch.arange(*span) for one in runs for span in one.keys]).to(device)
        index = torch.cat([torch.arange(*one.queries) for one in runs]).to(device)
        sizes = [[one.n_queries for one in runs], [one.n_keys for one in runs]]
        ends = [torch.tensor([0, *accumulate(size)], dtype=torch.int32, device=device) for size in sizes]
        return cls(index, keys, (ends[0], ends[1]), (max(sizes[0]), max(sizes[1])))


@dataclass(frozen=True)
class Packing:
    """Attention of one packed row."""

    cu_seqlens: torch.Tensor
    """int32[B + 1] on the device of the row."""
    longest: int
    """Length of the longest conversation."""
    runs: tuple[SharedKeys, ...]
    """All queries of the row in order."""
    segments: tuple[Segment, ...] | None = None
    """Where there are trees: all segments in order."""
    chosen: bool = False
    """Whether the row of queries holds some positions only."""
    reached: dict[int | None, tuple[SharedKeys, ...]] = field(default_factory=dict, compare=False)
    """Window -> what ``shared`` gives for it."""
    reached_ahead: dict[int | None, tuple[tuple[bool, Rows], ...]] = field(default_factory=dict, compare=False)
    """Window -> what ``ahead`` gives for it."""

    @classmethod
    def of(
        cls,
        cu_seqlens: torch.Tensor,
        segments: Sequence[Segment] | None = None,
        here: torch.Tensor | None = None,
        bidirectional: Sequence[Bidirectional] = (),
    ) -> Packing:
        """Read the boundaries once; ``here``: the same on the CPU, else they are copied from their device."""
        bounds = (cu_seqlens if here is None else here).tolist()
        plain = [Segment(start, end) for start, end in pairwise(bounds)] if segments is None else segments
        found = []
        for one in plain:
            before = () if one.prefix is None else (one.prefix,)
            for start, end, both in cut(one.start, one.end, bidirectional):
                ahead, windowed = both is not None, both is None or both.windowed
                keys = (*before, (one.start, end))
                found.append(SharedKeys((start, end), keys, ahead=ahead, windowed=windowed))
        longest = max((one.end - one.start for one in plain), default=0)
        given = None if segments is None else tuple(segments)
        return cls(cu_seqlens.to(torch.int32), longest, tuple(found), given)

    @cached_property
    def groups(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(length, starts) of the runs of equal length that see themselves only, causally."""
        starts: dict[int, list[int]] = {}
        for one in self.runs:
            if self._alone(one):
                starts.setdefault(one.n_queries, []).append(one.queries[0])
        return tuple((length, tuple(places)) for length, places in starts.items())

    def shared(self, window: int | None) -> tuple[SharedKeys, ...]:
        """The others: continuations of a prefix, bidirectional stretches and what follows them, chosen queries."""
        if window not in self.reached:
            self.reached[window] = tuple(one.near(window) for one in self.runs if not self._alone(one))
        return self.reached[window]

    def _alone(self, one: SharedKeys) -> bool:
        return not self.chosen and not one.ahead and one.n_keys == one.n_queries

    def at(self, positions: Sequence[int]) -> Packing:
        """The same keys seen from these positions only, in ascending order: the row of queries holds nothing else."""
        found = []
        first = 0
        for one in self.runs:
            last = first
            while last < len(positions) and positions[last] < one.queries[1]:
                last += 1
            if last > first:
                found.append(one.at(positions[first:last], first))
            first = last
        return replace(self, runs=tuple(found), chosen=True, reached={})

    @cached_property
    def trees(self) -> Rows | None:
        """All queries with the keys of their segment and its prefix; None: there are no trees."""
        if self.segments is None:
            return None
        wholes = [
            SharedKeys((one.start, one.end), (*([one.prefix] if one.prefix else []), (one.start, one.end)))
            for one in self.segments
        ]
        return Rows.of(wholes, self.cu_seqlens.device)

    def ahead(self, window: int | None) -> tuple[tuple[bool, Rows], ...]:
        """The bidirectional stretches, those that a window ends and those that none does (whether it does, first)."""
        if window not in self.reached_ahead:
            found = []
            for windowed in (True, False):
                some = [one.near(window) for one in self.runs if one.ahead and one.windowed == windowed]
                if some:
                    found.append((windowed and window is not None, Rows.of(some, self.cu_seqlens.device)))
            self.reached_ahead[window] = tuple(found)
        return self.reached_ahead[window]


def cut(
    start: int, end: int, bidirectional: Sequence[Bidirectional]
) -> Iterator[tuple[int, int, Bidirectional | None]]:
    """Runs of [start, end) of a row, in order: each a bidirectional stretch, or what lies causally between them.

    Raises:
        ValueError: a stretch lies in it in part, so some of its positions would not see others.
    """
    for one in bidirectional:
        if one.end <= start or one.start >= end:
            continue
        if one.start < start or one.end > end:
            raise ValueError(f"positions {start} to {end} hold part of the bidirectional stretch {one}")
        if one.start > start:
            yield start, one.start, None
        yield one.start, one.end, one
        start = one.end
    if end > start:
        yield start, end, None
