"""What each position of a packed row may attend to, read once per forward and handed to every layer of the LLM.

Conversations lie end to end. One that begins like others may be a tree: a shared prefix, then continuations that each
see the prefix and themselves (``Batch.segments``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch

from mmllm.llms.scoring import seen_from
from mmllm.types import Segment


@dataclass(frozen=True)
class SharedKeys:
    """Queries of a row that see keys in several places, or are not all of a conversation's: one call of a kernel."""

    queries: tuple[int, int]
    """Start and end in the row of queries."""
    keys: tuple[tuple[int, int], ...]
    """Starts and ends in the row of keys and values; their sum is K."""
    places: tuple[int, ...] | None = None
    """Which of the K keys is each query's own, and so the last that it sees. None: the last keys, in order."""
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

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """bool[queries, K]: True where a query sees a key, at most ``window`` keys back, itself included."""
        found = self.masks.get((window, device))
        if found is None:
            own = range(self.n_keys - self.n_queries, self.n_keys) if self.places is None else self.places
            found = self.masks[window, device] = seen_from(torch.tensor(own), self.n_keys, window).to(device)
        return found


@dataclass(frozen=True)
class Packing:
    """Attention of one packed row."""

    cu_seqlens: torch.Tensor
    """int32[B + 1] on the device of the row."""
    longest: int
    """Length of the longest conversation."""
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    """(length, starts) of the segments of equal length that see themselves only."""
    shared: tuple[SharedKeys, ...] = ()
    """The others: continuations of a prefix, or chosen queries."""
    segments: tuple[Segment, ...] | None = None
    """Where there are trees: all segments in order."""
    chosen: bool = False
    """Whether the row of queries holds some positions only."""

    @classmethod
    def of(
        cls, cu_seqlens: torch.Tensor, segments: Sequence[Segment] | None = None, here: torch.Tensor | None = None
    ) -> Packing:
        """Read the boundaries once; ``here``: the same on the CPU, else they are copied from their device."""
        bounds = (cu_seqlens if here is None else here).tolist()
        plain = [Segment(start, end) for start, end in pairwise(bounds)] if segments is None else segments
        starts: dict[int, list[int]] = {}
        shared = []
        for one in plain:
            if one.prefix is None and one.end > one.start:
                starts.setdefault(one.end - one.start, []).append(one.start)
            elif one.prefix is not None:
                shared.append(SharedKeys((one.start, one.end), (one.prefix, (one.start, one.end))))
        groups = tuple((length, tuple(places)) for length, places in starts.items())
        longest = max((one.end - one.start for one in plain), default=0)
        given = None if segments is None else tuple(segments)
        return cls(cu_seqlens.to(torch.int32), longest, groups, tuple(shared), given)

    def at(self, positions: Sequence[int]) -> Packing:
        """The same keys seen from these positions only, in ascending order: the row of queries holds nothing else."""
        alone = (Segment(start, start + length) for length, starts in self.groups for start in starts)
        shared = []
        first = 0
        for one in self.segments or sorted(alone, key=lambda segment: segment.start):
            last = first
            while last < len(positions) and positions[last] < one.end:
                last += 1
            if last > first:
                chosen = positions[first:last]
                before = 0 if one.prefix is None else one.prefix[1] - one.prefix[0]
                own = (one.start, chosen[-1] + 1)  # nothing behind the last of them is seen
                keys = (own,) if one.prefix is None else (one.prefix, own)
                places = tuple(before + position - one.start for position in chosen)
                shared.append(SharedKeys((first, last), keys, places))
            first = last
        return replace(self, groups=(), shared=tuple(shared), chosen=True)

    @cached_property
    def seen(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """For kernels over rows of unequal lengths, where there are trees: int64[K'] keys segment after segment,
        int32 bounds of the queries and of those keys, and the most keys of one segment."""
        assert self.segments is not None
        device = self.cu_seqlens.device
        spans = [[*([one.prefix] if one.prefix else []), (one.start, one.end)] for one in self.segments]
        index = torch.cat([torch.arange(start, end) for one in spans for start, end in one]).to(device)
        sizes = [sum(end - start for start, end in one) for one in spans]
        bounds = [0, *(one.end for one in self.segments)]
        queries = torch.tensor(bounds, dtype=torch.int32, device=device)
        keys = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device)
        return index, queries, keys, max(sizes)
