"""Which positions of a pass read which items: from an item to the next one, items that stand together at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmllm.hooks import ForwardContext


@dataclass(frozen=True)
class Read:
    """Positions that read the same tokens."""

    positions: Tensor
    """int64[n], in the flattened rows of the pass."""
    items: tuple[tuple[int, int], ...]
    """(number of an item, how many of its tokens, from the first on)."""
    blind: bool
    """Whether they are in front of the first item, and read all of them."""

    @property
    def n(self) -> int:
        """Number of positions."""
        return len(self.positions)

    def of(self, states: Tensor) -> Tensor:
        """The tokens among float[N, T, ...]: float[K, ...]."""
        if len(self.items) == 1:
            ((item, tokens),) = self.items
            return states[item, :tokens]  # no copy
        return torch.cat([states[item, :tokens] for item, tokens in self.items])


def reads_of(ctx: ForwardContext, key: str, counts: Tensor, ahead: bool) -> list[Read]:
    """What the positions of a pass read of the items of ``key``; none where nobody reads.

    Args:
        ctx: of the pass.
        key: placeholder.
        counts: int64[N, 2], of each item how many tokens are shown, and how many there are.
        ahead: whether positions in front of a conversation's first item read all tokens of all its items.
    """
    owners: list[int] = ctx.item_sequence[key].tolist()
    if not owners:  # the blank item of a training batch without media
        return []
    first, sizes = ctx.item_groups[key].tolist(), counts.tolist()
    last, sequences = ctx.last_item[key].flatten().cpu(), ctx.sequence_ids.flatten().cpu()
    real = ctx.attention_mask.flatten().cpu()
    found = []
    for owner in sorted({one for one in owners if one >= 0}):
        inside = real & (sequences == owner)
        for item in last[inside].unique().tolist():
            if item < 0 and not ahead:
                continue
            positions = (inside & (last == item)).nonzero()[:, 0].to(ctx.sequence_ids.device)
            if item < 0:
                items = tuple((n, sizes[n][1]) for n, one in enumerate(owners) if one == owner)
            else:
                items = tuple((n, sizes[n][0]) for n in range(first[item], item + 1))
            found.append(Read(positions, items, item < 0))
    return found
