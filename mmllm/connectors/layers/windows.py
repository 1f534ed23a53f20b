"""Windows of sequences that differ in length: what projectors that read window by window share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Windows:
    """The windows of N items, one after the other; windows that are padding alone are none of them."""

    values: Tensor
    """float[K, size, D]."""
    mask: Tensor
    """bool[K, size], True where a token is real."""
    places: Tensor
    """int64[K], place of each among ``most`` windows of every item."""
    n: int
    most: int

    @classmethod
    def of(cls, values: Tensor, mask: Tensor, counts: Sequence[int], size: int) -> Self:
        """Cut ``values`` float[N, T, D] with ``mask`` bool[N, T] into windows of ``size`` tokens, ``counts`` of each.

        The last of them is filled with zeros; what lies behind it is left out.
        """
        n, most = len(counts), max(counts)
        beyond = most * size - values.shape[1]  # below zero: a rest that is left out
        each = functional.pad(values, (0, 0, 0, beyond)).reshape(n * most, size, -1)
        seen = functional.pad(mask, (0, beyond)).reshape(n * most, size)
        # on the CPU, where the numbers are known: as a mask the device would have to say how many windows there are
        real = torch.arange(most) < torch.tensor(counts)[:, None]
        places = real.flatten().nonzero()[:, 0].to(values.device, non_blocking=True)
        return cls(each[places], seen[places], places, n, most)

    def by_item(self, read: Tensor) -> Tensor:
        """What was made of each window, float[K, Q, W] -> float[N, most * Q, W], zeros behind an item's own."""
        rows = read.new_zeros(self.n * self.most, *read.shape[1:]).index_copy(0, self.places, read)
        return rows.unflatten(0, (self.n, self.most)).flatten(1, 2)
