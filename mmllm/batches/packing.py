"""Deals the samples of one optimizer step to ranks and micro-batches: bins of nearly equal token counts."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeVar

Bin = TypeVar("Bin")


def split(lengths: Sequence[int], n_bins: int) -> list[list[int]]:
    """Indices of ``lengths`` (tokens per sample) in ``n_bins`` bins with nearly equal sums, a pure function.

    Longest first into the emptiest bin (Graham 1969, "Bounds on multiprocessing timing anomalies": at most 4/3 of the
    best largest bin). Bins come fullest first, so neighbours, which ranks work on at the same time, are most alike;
    inside a bin samples keep their order. Some bins are empty if there are fewer samples than bins.
    """
    heap = [(0, number) for number in range(n_bins)]
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    # ties by index, here and below: every rank must find the same bins
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, number = heapq.heappop(heap)
        bins[number].append(index)
        heapq.heappush(heap, (load + lengths[index], number))
    loads = {number: load for load, number in heap}
    return [sorted(bins[number]) for number in sorted(range(n_bins), key=lambda n: (-loads[n], n))]


def fill(lengths: Sequence[int], budget: int, world: int) -> list[list[int]]:
    """Indices of ``lengths`` in as few bins as ``budget`` tokens each allow, a multiple of ``world``, nearly equal.

    Their number is that of first-fit decreasing, then the work is spread by :func:`split`; one more bin per rank where
    that goes over the budget. A length over the budget is alone in its bin.
    """
    n_bins = world * max(1, -(-_first_fit(lengths, budget) // world))
    while True:
        bins = split(lengths, n_bins)
        if n_bins >= len(lengths) or all(len(one) < 2 or sum(lengths[i] for i in one) <= budget for one in bins):
            return bins
        n_bins += world


def _first_fit(lengths: Sequence[int], budget: int) -> int:
    """Bins that first-fit decreasing needs: at most 11/9 of the fewest possible, and 6/9 (Dosa 2007)."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = next((number for number, left in enumerate(room) if left >= length), None)
        if place is None:
            room.append(budget - length)
        else:
            room[place] -= length
    return len(room)


def deal(bins: Sequence[Bin], rank: int, world: int) -> list[Bin]:
    """The bins of one rank: its micro-batch m is bin ``m * world + rank``, so all ranks' m-th bins are neighbours."""
    return list(bins[rank::world])
