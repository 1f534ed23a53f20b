"""Positions of a pass, the question that each is under and the clips it is about: the bookkeeping of ``iva``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext


@dataclass(frozen=True)
class Turns:
    """G pairs of a user's message and the last clip shown so far, and the M positions that live under one of them."""

    positions: Tensor
    """int64[M] into the flattened R * S, in rising order."""
    of: Tensor
    """int64[M], the pair of each."""
    conversations: Tensor
    """int64[G], rising."""
    asked: Tensor
    """bool[G, R * S], text of the pair's message."""
    candidates: Tensor
    """bool[G, N], clips shown so far in its conversation."""


def turns_of(ctx: ForwardContext, key: str, n_items: int) -> Turns:
    """Find the turns of a pass over ``n_items`` clips of ``key``.

    Every position from a message's first word on lives under that message, until the next message's first word.
    Positions before the first word of a conversation's first message, and those before its first clip, live under none.

    Raises:
        MmllmError: the batch does not say where the user's messages are.
    """
    if ctx.user_turn is None:
        raise MmllmError("connector iva needs batches that say where the user's messages are (Batch.user_turn).")
    ids, asked, items = ctx.sequence_ids, ctx.user_turn, ctx.last_item[key]
    # conversations of a row follow each other, so the running maximum starts anew with each
    base = ids.shape[1] + 1
    message = (ids * base + asked + 1).cummax(dim=1).values - ids * base - 1
    flat = (ctx.attention_mask & (message >= 0) & (items >= 0)).flatten()
    positions = flat.nonzero().squeeze(-1)
    code = ((ids * base + message) * n_items + items).flatten()[positions]
    pairs, of = code.unique(return_inverse=True)  # in order of conversation, message, clip
    last, about = pairs % n_items, pairs // n_items
    conversations, numbers = about // base, about % base
    text = (ids.flatten() == conversations[:, None]) & (asked.flatten() == numbers[:, None])
    clips = torch.arange(n_items, device=ids.device)
    owned = owners_of(ctx, key, n_items) == conversations[:, None]
    return Turns(positions, of, conversations, text, owned & (clips <= last[:, None]))


def owners_of(ctx: ForwardContext, key: str, n_items: int) -> Tensor:
    """Conversation of each clip, int64[N]; -1 for the blank one of a batch without media."""
    owners = ctx.item_sequence[key]
    return torch.cat([owners, owners.new_full((n_items - len(owners),), -1)])


def padded_table(of: Tensor, n_groups: int) -> tuple[Tensor, Tensor, int]:
    """Place each of M members in a table of groups: (order int64[M], place in its group int64[M], most in one)."""
    order = of.argsort(stable=True)
    counts = of.bincount(minlength=n_groups)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(of), device=of.device) - first[of[order]]
    return order, place, int(counts.max()) if len(of) else 0
