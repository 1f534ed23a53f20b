"""Which positions of a pass read which items: from an item to the next one, items that stand together at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmllm.hooks import ForwardContext


@dataclass(frozen=True)
class Seen:
    """What the blocks read of one item.

    No tuple: of those DeepSpeed's ZeRO-3 follows every tensor that a module returns, and its ranks wait for each other
    forever where one has more items. The layers that make these tensors gather their own weights.
    """

    shown: int
    """Tokens that the LLM is shown, from the first on."""
    pairs: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of all its tokens in each block, float[T, kv_heads, d]."""


@dataclass(frozen=True)
class Read:
    """Positions that read the same tokens."""

    positions: Tensor
    """int64[n], in the flattened rows of the pass."""
    items: tuple[int, ...]
    """Numbers of the items."""
    blind: bool
    """Whether they are in front of the first item, and read all tokens, not only those that are shown."""

    @property
    def n(self) -> int:
        """Number of positions."""
        return len(self.positions)

    def tokens(self, seen: Sequence[Seen], block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a block, float[K, kv_heads, d]."""
        found = [seen[item].pairs[block] for item in self.items]
        if not self.blind:
            found = [
                (key[: seen[item].shown], value[: seen[item].shown])
                for item, (key, value) in zip(self.items, found, strict=True)
            ]
        if len(found) == 1:
            return found[0]  # no copy
        return torch.cat([key for key, _ in found]), torch.cat([value for _, value in found])


def reads_of(ctx: ForwardContext, key: str, ahead: bool) -> list[Read]:
    """What the positions of a pass read of the items of ``key``; none where nobody reads.

    ``ahead``: whether positions in front of a conversation's first item read all tokens of all its items.
    """
    owners: list[int] = ctx.item_sequence[key].tolist()
    if not owners:  # the blank item of a training batch without media
        return []
    first = ctx.item_groups[key].tolist()
    last, sequences = ctx.last_item[key].flatten().cpu(), ctx.sequence_ids.flatten().cpu()
    real = ctx.attention_mask.flatten().cpu()
    found = []
    for owner in sorted({one for one in owners if one >= 0}):
        inside = real & (sequences == owner)
        for item in last[inside].unique().tolist():
            if item < 0 and not ahead:
                continue
            positions = (inside & (last == item)).nonzero()[:, 0].to(ctx.sequence_ids.device)
            own = (n for n, one in enumerate(owners) if one == owner)
            found.append(Read(positions, tuple(own if item < 0 else range(first[item], item + 1)), item < 0))
    return found
