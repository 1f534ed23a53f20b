"""Contexts of the passes that there are: over a packed row, over padded rows, over one more token of each row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from mmllm.hooks.context import ForwardContext
from mmllm.types import IGNORE_INDEX, Batch, Bidirectional


def text_context(input_ids: torch.Tensor, cu_seqlens: torch.Tensor) -> ForwardContext:
    """Context of a packed row of text: ``input_ids`` int64[S], ``cu_seqlens`` int32[B + 1]; no media, no labels."""
    lengths = cu_seqlens.diff()
    sequence_ids = torch.repeat_interleave(torch.arange(len(lengths), device=input_ids.device), lengths)
    positions = torch.arange(len(input_ids), device=input_ids.device) - cu_seqlens.long()[sequence_ids]
    real = torch.ones_like(input_ids, dtype=torch.bool)[None]
    return ForwardContext(
        input_ids=input_ids[None],
        position_ids=positions[None, None],
        cu_seqlens=cu_seqlens,
        sequence_ids=sequence_ids[None],
        attention_mask=real,
        loss_mask=~real,
        has_media={},
        media_positions={},
        last_item={},
        item_sequence={},
        dataset_names=("",) * len(lengths),
    )


def context_of(batch: Batch, placeholders: Iterable[str]) -> ForwardContext:
    """Context of the pass over a packed batch, one row of S positions; ``placeholders``: all that the model has."""
    ids = batch.sequence_ids
    none = ids.new_empty(0)
    owners = {key: batch.item_sequence.get(key, none) for key in placeholders}
    absent = torch.zeros(len(batch.names), dtype=torch.bool, device=ids.device)
    starts = {key: batch.item_starts.get(key, none) for key in owners}
    return ForwardContext(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[:, None],
        cu_seqlens=batch.cu_seqlens,
        sequence_ids=ids[None],
        attention_mask=torch.ones_like(ids[None], dtype=torch.bool),
        loss_mask=(batch.labels != IGNORE_INDEX)[None],
        has_media={key: absent.index_fill(0, owner, True) for key, owner in owners.items()},
        media_positions={key: batch.media_positions.get(key, none) for key in owners},
        last_item={key: _last_items(starts[key], owner, ids)[None] for key, owner in owners.items()},
        item_sequence=owners,
        item_groups={key: _groups(starts[key], owner) for key, owner in owners.items()},
        dataset_names=tuple(batch.dataset_names),
        user_turn=None if batch.user_turn is None else batch.user_turn[None],
        segments=batch.segments,
        bidirectional=batch.bidirectional,
        host=batch.host,
    )


def _last_items(starts: torch.Tensor, owners: torch.Tensor, sequence_ids: torch.Tensor) -> torch.Tensor:
    """int64[S]: number of the last item that starts at or before each position in its conversation, or -1."""
    # an item without places that ends the row starts behind its last position: one place more, which is cut off, takes
    # it without asking the device how many of them there are
    marks = torch.full((len(sequence_ids) + 1,), -1, dtype=sequence_ids.dtype, device=sequence_ids.device)
    numbers = torch.arange(len(starts), dtype=marks.dtype, device=starts.device)
    # items without places may start at the same position: the last one counts
    marks = marks.scatter_reduce(0, starts.clamp(max=len(sequence_ids)), numbers, "amax")[:-1].cummax(0).values
    if not len(owners):
        return marks
    # the running maximum goes on over the borders of conversations: an item of an earlier one does not count
    own = (marks >= 0) & (owners[marks.clamp(min=0)] == sequence_ids)
    return torch.where(own, marks, -1)


def _groups(starts: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """int64[N]: number of the first of the items that stand together with each."""
    if not len(owners):
        return owners
    apart = torch.ones_like(owners, dtype=torch.bool)
    apart[1:] = (starts.diff() > 1) | (owners.diff() != 0)
    numbers = torch.arange(len(owners), device=owners.device)
    return torch.where(apart, numbers, 0).cummax(0).values


def at_positions(ctx: ForwardContext, positions: torch.Tensor) -> ForwardContext:
    """Context of the same packed row reduced to ``positions`` int64[M], for what works position by position."""
    places = torch.full_like(ctx.input_ids[0], -1)
    places[positions] = torch.arange(len(positions), device=positions.device)
    media = {key: places[old] for key, old in ctx.media_positions.items()}
    kept = {key: _kept(ctx, key, found) for key, found in media.items()}
    return replace(
        ctx,
        input_ids=ctx.input_ids[:, positions],
        position_ids=ctx.position_ids[..., positions],
        cu_seqlens=None,
        segments=None,
        bidirectional=(),
        sequence_ids=ctx.sequence_ids[:, positions],
        attention_mask=ctx.attention_mask[:, positions],
        loss_mask=ctx.loss_mask[:, positions],
        media_positions={key: found[kept[key]] for key, found in media.items()},
        media_tokens=None
        if ctx.media_tokens is None
        else {key: tokens[kept[key]] for key, tokens in ctx.media_tokens.items()},
        last_item={key: values[:, positions] for key, values in ctx.last_item.items()},
        user_turn=None if ctx.user_turn is None else ctx.user_turn[:, positions],
        text_embeds=None if ctx.text_embeds is None else ctx.text_embeds[positions],
        wanted=None,
        wanted_here=None,
        host=None,
        notes={},
    )


def _kept(ctx: ForwardContext, key: str, found: torch.Tensor) -> torch.Tensor:
    """int64 or bool index of the places of ``key`` that are among the wanted ones, where -1 stands at the others."""
    if not len(found):
        return found
    if ctx.host is None or ctx.wanted_here is None:
        return found >= 0
    # counted on the CPU: as a mask the device would have to say how many there are
    among = torch.isin(ctx.host.media_positions[key], ctx.wanted_here)
    return among.nonzero().squeeze(-1).to(found.device, non_blocking=True)


def left_padded(ctx: ForwardContext, lengths: Sequence[int]) -> ForwardContext:
    """Context of a packed row with each conversation, of these lengths, in a row of its own, padded on the left."""
    longest, device = max(lengths), ctx.sequence_ids.device
    sizes = torch.tensor(lengths, device=device)
    ids = torch.arange(len(lengths), device=device)
    real = torch.arange(longest, device=device) >= (longest - sizes)[:, None]

    def rows(values: torch.Tensor) -> torch.Tensor:
        empty = torch.full(real.shape, -1, device=device).to(values.dtype)
        return empty.masked_scatter(real, values[0])

    flat = real.flatten().nonzero().squeeze(-1)  # packed position -> position in the flattened rows
    return replace(
        ctx,
        input_ids=rows(ctx.input_ids).clamp(min=0),  # pads are looked up in the embedding table too
        position_ids=torch.stack([rows(axis) for axis in ctx.position_ids]),
        cu_seqlens=None,
        host=None,
        sequence_ids=ids[:, None].expand(real.shape),
        attention_mask=real,
        loss_mask=rows(ctx.loss_mask) & real,  # -1 at the pads became True
        media_positions={key: flat[places] for key, places in ctx.media_positions.items()},
        last_item={key: rows(values) for key, values in ctx.last_item.items()},
        user_turn=None if ctx.user_turn is None else rows(ctx.user_turn),
        text_embeds=None,
        bidirectional=_in_rows(ctx.bidirectional, lengths),
        notes={},
    )


def _in_rows(stretches: Sequence[Bidirectional], lengths: Sequence[int]) -> tuple[Bidirectional, ...]:
    """Stretches of a packed row in rows of their conversations, padded on the left."""
    longest, ends = max(lengths), list(accumulate(lengths))
    # a conversation moves by the pads of the rows up to its own
    return tuple(
        one.moved((row + 1) * longest - ends[row]) for one in stretches for row in (bisect_right(ends, one.start),)
    )


def next_token(ctx: ForwardContext, ids: torch.Tensor) -> ForwardContext:
    """Context of one more token in each row, ``ids`` int64[R]: it sees every item of its conversation, fills none."""
    return replace(
        ctx,
        input_ids=ids[:, None],
        position_ids=next_position(ctx.position_ids)[..., None],
        sequence_ids=ctx.sequence_ids[:, -1:],
        attention_mask=ctx.attention_mask[:, -1:],
        loss_mask=torch.zeros_like(ctx.loss_mask[:, -1:]),
        media_positions={key: places[:0] for key, places in ctx.media_positions.items()},
        last_item={key: _latest(owners, ctx.sequence_ids[:, -1]) for key, owners in ctx.item_sequence.items()},
        user_turn=None if ctx.user_turn is None else torch.full_like(ctx.user_turn[:, -1:], -1),
        bidirectional=(),
        notes={},
    )


def next_position(position_ids: torch.Tensor) -> torch.Tensor:
    """int64[P, R], positions of a token of text behind rows that have ``position_ids`` int64[P, R, S].

    Behind text all axes count on; behind media text goes on from the larger of rows and columns, whose last place has
    the largest number of each. The first axis, time, does not count: those of a long clip may be larger.
    """
    last = position_ids[..., -1]
    return last[-2:].amax(dim=0).expand_as(last) + 1


def _latest(owners: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int64[R, 1]: the last item of each row's conversation, also where no token follows its start; -1: it has none."""
    numbers = torch.arange(len(owners), device=owners.device)
    owned = torch.where(owners == rows[:, None], numbers, -1)
    return owned.amax(dim=1, keepdim=True) if len(owners) else torch.full_like(rows[:, None], -1)


def select_rows(ctx: ForwardContext, rows: torch.Tensor) -> ForwardContext:
    """Context for the steps after this one with these rows only, int64[n]; items keep their numbers, conversations get
    those of their rows."""
    # old number of a conversation -> its new one; -1: it is finished, and so are its items. One place more than rows:
    # items that an earlier selection gave -1 find -1 there again, not the last row's number
    numbers = torch.full((len(ctx.sequence_ids) + 1,), -1, device=rows.device)
    numbers[rows] = torch.arange(len(rows), device=rows.device)

    def chosen(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value[rows] for key, value in values.items()}

    return replace(
        ctx,
        input_ids=ctx.input_ids[rows],
        position_ids=ctx.position_ids[:, rows],
        sequence_ids=numbers[ctx.sequence_ids[rows]],
        attention_mask=ctx.attention_mask[rows],
        loss_mask=ctx.loss_mask[rows],
        has_media=chosen(ctx.has_media),
        media_positions={key: places[:0] for key, places in ctx.media_positions.items()},
        last_item=chosen(ctx.last_item),
        item_sequence={key: numbers[owner] for key, owner in ctx.item_sequence.items()},
        dataset_names=tuple(ctx.dataset_names[row] for row in rows.tolist()),
        user_turn=None if ctx.user_turn is None else ctx.user_turn[rows],
        bidirectional=(),
        notes={},
    )
