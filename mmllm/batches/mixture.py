"""Samples of each step of a stage: a pure function of (seed, step), so resuming needs only the step's number."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence, Sized
from itertools import accumulate

import numpy as np

from mmllm.batches.together import Together
from mmllm.errors import MmllmError

WINDOW = 1024
"""Samples of blocks that are shuffled together: ten row groups of 100, what tables of pictures have."""


class Mixture:
    """Order in which a stage goes through its datasets.

    A weight multiplies a dataset's natural size: an epoch holds ``round(weight * len(dataset))`` samples of it (at
    least one), so weights of 1.0 give every sample exactly once per epoch, in a new order each epoch. With 0.5 an epoch
    sees one half of the dataset and the next epoch the other; with 2.0 it sees each sample twice: uses of two samples
    of one dataset never differ by more than one.

    A dataset with ``blocks`` (row groups of a table, say) is read block after block in a random order, its samples
    shuffled among those of the blocks that make up :data:`WINDOW` samples or more: what lies together is read together.

    ``together`` brings samples about the same media together in a step; each epoch has the samples it would have.

    ``epochs`` (may be a fraction) or ``steps`` says how long; ``batch`` is the samples of one optimizer step over all
    ranks. The last step of ``epochs`` may be smaller; no sample is left out or repeated to fill it. Stages that go
    through the same data in different orders need different seeds.
    """

    def __init__(
        self,
        sources: Mapping[str, Sized],
        weights: Mapping[str, float],
        seed: int,
        *,
        batch: int,
        epochs: float | None = None,
        steps: int | None = None,
        together: Together | None = None,
    ) -> None:
        if (epochs is None) == (steps is None):
            raise MmllmError("a stage's length is either epochs or steps: give exactly one of them")
        self.names = list(weights)
        self.seed, self.batch = seed, batch
        self._sizes = [_size(name, sources, weights[name]) for name in self.names]
        self._blocks = {name: getattr(sources[name], "blocks", None) for name in self.names}
        counts = [max(1, round(weights[name] * size)) for name, size in zip(self.names, self._sizes, strict=True)]
        self._starts = [0, *accumulate(counts)]
        self.epoch_size = self._starts[-1]
        """Samples of one epoch."""
        self.n_samples = steps * batch if steps is not None else max(1, round(self.epoch_size * (epochs or 0.0)))
        """Samples of the whole stage, repeats counted."""
        self.n_steps = math.ceil(self.n_samples / batch)
        """Optimizer steps of the stage."""
        self._orders: dict[tuple[int, ...], np.ndarray] = {}
        self.together = together
        self._windows: dict[tuple[int, int], list[tuple[str, int]]] = {}

    def step(self, k: int) -> list[tuple[str, int]]:
        """The samples of step k (from 0) as (dataset name, index); IndexError beyond the last step."""
        if not 0 <= k < self.n_steps:
            raise IndexError(f"step {k} of a mixture of {self.n_steps} steps")
        stop = min((k + 1) * self.batch, self.n_samples)
        find = self._sample if self.together is None else self._moved
        return [find(position) for position in range(k * self.batch, stop)]

    def _moved(self, position: int) -> tuple[str, int]:
        """The sample at a position after those of its window were brought together."""
        assert self.together is not None
        epoch, place = divmod(position, self.epoch_size)
        reach = min(self.together.reach or self.epoch_size, self.epoch_size)
        window, inside = divmod(place, reach)
        found = self._windows.get((epoch, window))
        if found is None:
            first = epoch * self.epoch_size + window * reach
            last = min(first + reach, (epoch + 1) * self.epoch_size)
            drawn = [self._sample(number) for number in range(first, last)]
            found = self.together.ordered(drawn, first, self.batch)
            while len(self._windows) >= 2:  # threads that read ahead may be past a window's border
                self._windows.pop(next(iter(self._windows)), None)
            self._windows[epoch, window] = found
        return found[inside]

    def _sample(self, position: int) -> tuple[str, int]:
        epoch, place = divmod(position, self.epoch_size)
        slot = int(self._order(0, epoch, self.epoch_size)[place])
        source = int(np.searchsorted(self._starts, slot, side="right")) - 1
        count = self._starts[source + 1] - self._starts[source]
        name = self.names[source]
        nth = slot - self._starts[source] if self._blocks[name] is None else self._nth(epoch, source, place)
        # counted over epochs, so that a weight of 0.5 goes on in the second epoch where the first one stopped
        turn, index = divmod(epoch * count + nth, self._sizes[source])
        # The name, not the place in the recipe, seeds a dataset: adding another leaves what an epoch draws from it.
        stream = 1 + zlib.crc32(name.encode())
        order = self._order(stream, turn, self._sizes[source], self._blocks[name])
        return name, int(order[index])

    def _nth(self, epoch: int, source: int, place: int) -> int:
        """How many samples of a dataset stand before a place of an epoch: so they are drawn in its own order."""
        key = (-1 - source, epoch)
        found = self._orders.get(key)
        if found is None:
            order = self._order(0, epoch, self.epoch_size)
            own = (order >= self._starts[source]) & (order < self._starts[source + 1])
            found = self._remember(key, np.cumsum(own) - 1)
        return int(found[place])

    def _order(self, stream: int, turn: int, size: int, blocks: Sequence[int] | None = None) -> np.ndarray:
        """int64[size], a permutation given by (seed, stream, turn) alone; the newest few are remembered."""
        key = (stream, turn)
        found = self._orders.get(key)
        if found is None:
            random = np.random.default_rng([self.seed, stream, turn])
            found = self._remember(key, random.permutation(size) if blocks is None else _by_blocks(blocks, random))
        return found

    def _remember(self, key: tuple[int, int], order: np.ndarray) -> np.ndarray:
        # of the epoch one and of each source two, each twice: threads that read ahead may be past an epoch's border
        while len(self._orders) >= 2 + 4 * len(self.names):
            self._orders.pop(next(iter(self._orders), key), None)
        self._orders[key] = order
        return order


def _by_blocks(blocks: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Blocks in a random order; samples shuffled within each run of blocks that holds WINDOW samples or more."""
    starts = np.concatenate([[0], np.cumsum(blocks)])
    window: list[np.ndarray] = []
    order = []
    for block in random.permutation(len(blocks)):
        window.append(np.arange(starts[block], starts[block + 1]))
        if sum(map(len, window)) >= WINDOW:
            order.append(random.permutation(np.concatenate(window)))
            window = []
    if window:
        order.append(random.permutation(np.concatenate(window)))
    return np.concatenate(order)


def _size(name: str, sources: Mapping[str, Sized], weight: float) -> int:
    if name not in sources:
        raise MmllmError(f"no source {name!r} in this mixture; known: {', '.join(sources) or 'none'}")
    size = len(sources[name])
    if not size:
        raise MmllmError(f"source {name!r} is empty")
    if not 0 < weight < math.inf:
        raise MmllmError(f"source {name!r} has the weight {weight}, which multiplies its size: give more than 0")
    return size
