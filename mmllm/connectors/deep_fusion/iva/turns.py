"""Which positions of a pass ask which question about which frames: the bookkeeping of ``iva``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.types import Pass


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


def turns_of(flow: Pass, key: str, n_items: int) -> Turns:
    """Every position from a message's first word on lives under that message, until the next message's first word.

    Positions before the first word of a conversation's first message, and those before its first clip, live under none.

    Raises:
        MmllmError: the batch does not say where the user's messages are.
    """
    if flow.questions is None:
        raise MmllmError("connector iva needs batches that say where the user's messages are (Batch.questions).")
    ids, asked, items = flow.sequence_ids, flow.questions, flow.items[key]
    # conversations of a row follow each other, so the running maximum starts anew with each
    base = ids.shape[1] + 1
    message = (ids * base + asked + 1).cummax(dim=1).values - ids * base - 1
    flat = (flow.real & (message >= 0) & (items >= 0)).flatten()
    positions = flat.nonzero().squeeze(-1)
    code = ((ids * base + message) * n_items + items).flatten()[positions]
    pairs, of = code.unique(return_inverse=True)  # in order of conversation, message, clip
    last, about = pairs % n_items, pairs // n_items
    conversations, numbers = about // base, about % base
    text = (ids.flatten() == conversations[:, None]) & (asked.flatten() == numbers[:, None])
    clips = torch.arange(n_items, device=ids.device)
    owned = owners_of(flow, key, n_items) == conversations[:, None]
    return Turns(positions, of, conversations, text, owned & (clips <= last[:, None]))


def owners_of(flow: Pass, key: str, n_items: int) -> Tensor:
    """int64[N], conversation of each clip; -1 for the dummy of a batch without media."""
    owners = flow.owners[key]
    return torch.cat([owners, owners.new_full((n_items - len(owners),), -1)])


def padded_table(of: Tensor, n_groups: int) -> tuple[Tensor, Tensor, int]:
    """Where each of M members goes in a table of groups: (order int64[M], place in its group int64[M], most in one)."""
    order = of.argsort(stable=True)
    counts = of.bincount(minlength=n_groups)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(of), device=of.device) - first[of[order]]
    return order, place, int(counts.max()) if len(of) else 0
