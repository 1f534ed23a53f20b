"""Context of a pass over pieces of several conversations: parts of prompts and single tokens of answers in one row."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from mmllm.hooks.context import ForwardContext
from mmllm.hooks.passes import next_position
from mmllm.types import Bidirectional


@dataclass(frozen=True)
class Piece:
    """New positions of one conversation: ``length`` of its prompt from ``start`` on, or behind it one token."""

    prompt: Prompt
    start: int
    length: int
    token: int | None = None
    """The answer's token, where the piece is one."""

    def inside(self, key: str) -> tuple[int, int]:
        """Which of the prompt's places of ``key`` it holds: the first, and the one behind the last."""
        if self.token is not None:
            return 0, 0
        places = self.prompt.places[key]
        return bisect_left(places, self.start), bisect_left(places, self.start + self.length)

    @property
    def bidirectional(self) -> tuple[Bidirectional, ...]:
        """Those of the prompt's stretches of which it holds positions."""
        end = self.start + self.length
        return tuple(one for one in self.prompt.ctx.bidirectional if one.start < end and self.start < one.end)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One conversation's whole prompt, of which passes read pieces."""

    ctx: ForwardContext
    """As one packed row."""

    @cached_property
    def next_position(self) -> int:
        """Position id of the first token after it, on every axis."""
        return int(next_position(self.ctx.position_ids)[0, 0])

    @cached_property
    def has_media(self) -> dict[str, bool]:
        """Placeholder -> whether it shows items."""
        return {key: bool(values[0]) for key, values in self.ctx.has_media.items()}

    @cached_property
    def n_items(self) -> dict[str, int]:
        """Placeholder -> number of items."""
        return {key: len(owners) for key, owners in self.ctx.item_sequence.items()}

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Placeholder -> places of all its items, rising."""
        return {key: places.tolist() for key, places in self.ctx.media_positions.items()}

    @property
    def length(self) -> int:
        """Number of its tokens."""
        return self.ctx.input_ids.shape[1]


def context_of_pieces(pieces: Sequence[Piece], placeholders: Iterable[str] | None = None) -> ForwardContext:
    """One row with the pieces end to end; conversation b is that of piece b, its items follow those of the ones before.

    ``media`` is empty: who runs the pass puts in what connectors keep of these items. ``placeholders``: of which it
    knows, default: those of the first piece's model.
    """
    ctx = pieces[0].prompt.ctx
    device, lengths = ctx.sequence_ids.device, [piece.length for piece in pieces]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    order = torch.arange(len(pieces), device=device)
    ids = torch.repeat_interleave(order, torch.tensor(lengths, device=device), output_size=sum(lengths))
    media = {key: _Media.of(pieces, key) for key in (ctx.has_media if placeholders is None else placeholders)}
    turns = [_sliced(piece, piece.prompt.ctx.user_turn, -1) for piece in pieces]
    return ForwardContext(
        input_ids=torch.cat([_sliced(one, one.prompt.ctx.input_ids, one.token or 0) for one in pieces], dim=1),
        position_ids=torch.cat([_positions(piece) for piece in pieces], dim=2),
        cu_seqlens=bounds,
        sequence_ids=ids[None],
        attention_mask=torch.ones_like(ids, dtype=torch.bool)[None],
        loss_mask=torch.zeros_like(ids, dtype=torch.bool)[None],
        has_media={key: torch.tensor([p.prompt.has_media[key] for p in pieces], device=device) for key in media},
        media_positions={key: one.positions for key, one in media.items()},
        media_tokens={key: one.tokens for key, one in media.items()},
        last_item={key: one.last for key, one in media.items()},
        item_sequence={key: one.owners for key, one in media.items()},
        item_groups={key: one.groups for key, one in media.items()},
        dataset_names=tuple(piece.prompt.ctx.dataset_names[0] for piece in pieces),
        user_turn=None if ctx.user_turn is None else torch.cat(turns, dim=1),
        bidirectional=tuple(
            one.moved(row - piece.start)
            for piece, row in zip(pieces, accumulate(lengths, initial=0), strict=False)
            for one in piece.bidirectional
        ),
    )


def _sliced(piece: Piece, values: torch.Tensor | None, after: int) -> torch.Tensor:
    """int64[1, length] of the piece: of the prompt's ``values`` int64[1, S], or ``after`` for a token behind it."""
    like = piece.prompt.ctx.input_ids
    if piece.token is not None or values is None:
        return like.new_full((1, piece.length), after)
    return values[:, piece.start : piece.start + piece.length]


def _positions(piece: Piece) -> torch.Tensor:
    """int64[P, 1, length]."""
    known = piece.prompt.ctx.position_ids
    if piece.token is None:
        return known[:, :, piece.start : piece.start + piece.length]
    return known.new_full((len(known), 1, 1), piece.prompt.next_position + piece.start - piece.prompt.length)


@dataclass(frozen=True)
class _Media:
    """What the pass knows of the items of one placeholder."""

    positions: torch.Tensor
    tokens: torch.Tensor
    last: torch.Tensor
    owners: torch.Tensor
    groups: torch.Tensor

    @classmethod
    def of(cls, pieces: Sequence[Piece], key: str) -> _Media:
        """Read the pieces."""
        none = pieces[0].prompt.ctx.item_sequence[key].new_empty(0)
        positions, tokens, last, groups = [none], [none], [], [none]
        owners: list[int] = []
        row = items = places = 0
        for piece in pieces:
            n = piece.prompt.n_items[key]
            # what stands behind the prompt is behind all its items
            known = _sliced(piece, piece.prompt.ctx.last_item[key], n - 1)
            last.append(torch.where(known >= 0, known + items, -1) if items else known)
            owners += [len(last) - 1] * n
            groups.append(piece.prompt.ctx.item_groups[key] + items)
            begin, end = piece.inside(key)
            if end > begin:
                positions.append(piece.prompt.ctx.media_positions[key][begin:end] + (row - piece.start))
                tokens.append(torch.arange(begin, end, device=none.device) + places)
            row, items, places = row + piece.length, items + n, places + len(piece.prompt.places[key])
        numbers = none.new_tensor(owners)
        return cls(torch.cat(positions), torch.cat(tokens), torch.cat(last, dim=1), numbers, torch.cat(groups))


def media_context(
    placeholders: Iterable[str], key: str, dataset_names: Sequence[str], device: torch.device
) -> ForwardContext:
    """Context for encoding one item of ``key`` of each of these conversations by their data keys, without any text."""
    n, names = len(dataset_names), list(placeholders)
    none = torch.zeros(1, 0, dtype=torch.int64, device=device)
    return ForwardContext(
        input_ids=none,
        position_ids=none[None],
        cu_seqlens=None,
        sequence_ids=none,
        attention_mask=none.bool(),
        loss_mask=none.bool(),
        has_media={name: torch.full((n,), name == key, device=device) for name in names},
        media_positions=dict.fromkeys(names, none[0]),
        last_item=dict.fromkeys(names, none),
        item_sequence={name: torch.arange(n if name == key else 0, device=device) for name in names},
        item_groups={name: torch.arange(n if name == key else 0, device=device) for name in names},
        dataset_names=tuple(dataset_names),
    )
