"""Context of one forward pass, handed to each hook inside a frozen model as its first argument.

A :class:`ForwardContext` belongs to one pass of the LLM, an :class:`EncoderContext` to one of an encoder. A
:class:`Scope` hands the open one to the hooks; nothing about a pass is stored on a part, so passes may be open side by
side and recomputed blocks see the context of their own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch

from mmllm.types import IGNORE_INDEX, Batch

Context = TypeVar("Context")
Value = TypeVar("Value")


class Scope(Generic[Context]):
    """Hands the context of the running pass to the hooks of one frozen model."""

    def __init__(self) -> None:
        self._open: list[Context] = []
        self.enabled = True
        """False while frozen layers are asked for something outside of a pass (:meth:`off`)."""

    @classmethod
    def without_context(cls) -> Scope[None]:
        """A scope for hooks that belong to a model itself and need to know nothing of a pass."""
        made = Scope[None]()
        made._open.append(None)
        return made

    @property
    def current(self) -> Context:
        """Context of the pass that runs.

        Raises:
            RuntimeError: no pass is open, so whatever a hook did would rest on an earlier one.
        """
        if not self._open:
            raise RuntimeError(
                "a connector's hook ran without a forward context; call the model through MultimodalLM, or open one "
                "with `model.scope.open(context)`, or remove the connector's handle first"
            )
        return self._open[-1]

    @property
    def peek(self) -> Context | None:
        """Context of the pass that runs, or None outside of any."""
        return self._open[-1] if self._open else None

    @contextmanager
    def open(self, context: Context) -> Iterator[Context]:
        """Run a pass: hooks get ``context``. Passes may be nested; the innermost is the one that runs."""
        self._open.append(context)
        try:
            yield context
        finally:
            self._open.pop()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let no hook work inside."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before


@dataclass(frozen=True)
class TokenLayout:
    """Rows and tokens that the blocks of an encoder see: float[rows, prefix + T, D]."""

    rows: tuple[int, ...]
    """Rows that each of the N items makes, item after item: frames of a clip, 1 for a picture."""
    grid: tuple[int, ...]
    """(rows, cols) | (time,) of the T tokens of one row, behind its prefix."""
    prefix: int
    """Class and register tokens in front of each row."""
    mask: torch.Tensor | None = None
    """bool[rows, T], True where a token is real; None: all are."""


@dataclass(frozen=True, eq=False)
class EncoderContext:
    """Metadata of one forward pass of an encoder, for the adapters in its blocks."""

    layout: TokenLayout | None = None
    """None before the encoder knows it, and in an encoder without blocks."""
    dataset_names: tuple[str, ...] | None = None
    """Data key of the conversation of each item; fewer than N where blank items stand in for media that a rank lacks.
    None: the encoder was called by itself."""
    notes: dict[Hashable, Any] = field(default_factory=dict)
    """Values that a hook leaves for others of the same pass."""

    @property
    def n_real(self) -> int:
        """Number of items that are not blank stand-ins."""
        assert self.layout is not None
        n = len(self.layout.rows)
        return n if self.dataset_names is None else min(n, len(self.dataset_names))


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """Metadata of one forward pass over R rows of S positions, for connectors inside the LLM and its own attention.

    A packed row is R = 1; in decoding each of the B conversations is a row of its own, padded on the left. The
    mappings have every placeholder, also those without media here.
    """

    input_ids: torch.Tensor
    """int64[R, S], token ids; 0 at places that media fill."""
    position_ids: torch.Tensor
    """int64[P, R, S], P axes of the LLM's position scheme; 1 where positions are sequential."""
    cu_seqlens: torch.Tensor | None
    """int32[B + 1], boundaries of the conversations in a packed row; None: rows are conversations."""
    sequence_ids: torch.Tensor
    """int64[R, S], conversation 0 .. B - 1 of each position (pads too)."""
    attention_mask: torch.Tensor
    """bool[R, S], False at left pads."""
    loss_mask: torch.Tensor
    """bool[R, S], True at supervised positions: the assistant's text, in training; none while it answers."""
    has_media: Mapping[str, torch.Tensor]
    """Placeholder -> bool[B], whether a conversation has media of it."""
    media_positions: Mapping[str, torch.Tensor]
    """Placeholder -> int64[M], positions in the flattened R * S that its tokens fill, item after item in raster order;
    empty in the steps of a cached decoding after its first pass."""
    last_item: Mapping[str, torch.Tensor]
    """Placeholder -> int64[R, S], number of the last item that starts at or before a position, in its conversation;
    -1: none yet."""
    item_sequence: Mapping[str, torch.Tensor]
    """Placeholder -> int64[N], conversation of each item; -1: it is no longer there."""
    dataset_names: tuple[str, ...]
    """B data keys; empty text where unknown."""
    user_turn: torch.Tensor | None = None
    """int64[R, S], see ``Batch.user_turn``; all -1 in the steps of a cached decoding after its first pass."""
    head_positions: torch.Tensor | None = None
    """int64[M] while the LM head runs in training: where in the packed row its hidden states are. None: elsewhere, and
    in decoding, where they are the last of each row."""
    text_embeds: torch.Tensor | None = None
    """float[S, D_llm], embeddings of the packed row before any media are merged in, for projectors that read text."""
    media: dict[str, Any] = field(default_factory=dict)
    """Connector key -> what it keeps of the items of these conversations (``DeepFusion.remember``); it is shared by all
    passes over them, so that each step of a cached decoding finds it."""
    notes: dict[Hashable, Any] = field(default_factory=dict)
    """Values that a layer leaves for others of the same pass, or that are computed once a pass; empty in the next."""

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Value that ``make`` gives, computed once in this pass."""
        if key not in self.notes:
            self.notes[key] = make()
        return self.notes[key]

    def active(self, when: tuple[str, ...] | None) -> torch.Tensor | None:
        """bool[R, S, 1], positions of conversations with media of one of these placeholders; None: all positions."""
        if when is None:
            return None

        def make() -> torch.Tensor:
            chosen = torch.stack([self.has_media[key] for key in when]).any(dim=0)
            return chosen[self.sequence_ids][..., None]

        return self.once(("active", when), make)

    def at_head(self, positions: torch.Tensor | None) -> ForwardContext:
        """The same pass at its LM head: ``positions`` int64[M] of the states it reads, see ``head_positions``."""
        return replace(self, head_positions=positions)

    def media_mask(self, placeholders: Iterable[str] | None = None) -> torch.Tensor:
        """bool[R, S], positions filled by media of these placeholders, or of any."""
        # flat: positions of media count over all rows, whether there is one packed row or one per conversation
        flat = self.attention_mask.new_zeros(self.attention_mask.numel())
        for key in self.media_positions if placeholders is None else placeholders:
            flat[self.media_positions[key]] = True
        return flat.view(self.attention_mask.shape)


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
        dataset_names=tuple(batch.dataset_names),
        user_turn=None if batch.user_turn is None else batch.user_turn[None],
    )


def _last_items(starts: torch.Tensor, owners: torch.Tensor, sequence_ids: torch.Tensor) -> torch.Tensor:
    """int64[S]: number of the last item that starts at or before each position in its conversation, or -1."""
    # an item without places that ends the row starts behind its last position
    inside = (starts < len(sequence_ids)).nonzero().squeeze(-1)
    marks = torch.full_like(sequence_ids, -1)
    # items without places may start at the same position: the last one counts
    marks = marks.scatter_reduce(0, starts[inside], inside, "amax").cummax(0).values
    if not len(owners):
        return marks
    # the running maximum goes on over the borders of conversations: an item of an earlier one does not count
    own = (marks >= 0) & (owners[marks.clamp(min=0)] == sequence_ids)
    return torch.where(own, marks, -1)


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
        sequence_ids=ids[:, None].expand(real.shape),
        attention_mask=real,
        loss_mask=rows(ctx.loss_mask) & real,  # -1 at the pads became True
        media_positions={key: flat[places] for key, places in ctx.media_positions.items()},
        last_item={key: rows(values) for key, values in ctx.last_item.items()},
        user_turn=None if ctx.user_turn is None else rows(ctx.user_turn),
        text_embeds=None,
        notes={},
    )


def next_token(ctx: ForwardContext, ids: torch.Tensor) -> ForwardContext:
    """Context of one more token in each row, ``ids`` int64[R]: it sees every item of its conversation, fills none."""
    return replace(
        ctx,
        input_ids=ids[:, None],
        # the next position after the largest of the row: also right where items move positions on by other rules
        position_ids=ctx.position_ids.amax(dim=(0, 2), keepdim=True).expand(len(ctx.position_ids), -1, -1) + 1,
        sequence_ids=ctx.sequence_ids[:, -1:],
        attention_mask=ctx.attention_mask[:, -1:],
        loss_mask=torch.zeros_like(ctx.loss_mask[:, -1:]),
        media_positions={key: places[:0] for key, places in ctx.media_positions.items()},
        last_item={key: _latest(owners, ctx.sequence_ids[:, -1]) for key, owners in ctx.item_sequence.items()},
        user_turn=None if ctx.user_turn is None else torch.full_like(ctx.user_turn[:, -1:], -1),
        notes={},
    )


def _latest(owners: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int64[R, 1]: the last item of each row's conversation, also where no token follows its start; -1: it has none."""
    numbers = torch.arange(len(owners), device=owners.device)
    owned = torch.where(owners == rows[:, None], numbers, -1)
    return owned.amax(dim=1, keepdim=True) if len(owners) else torch.full_like(rows[:, None], -1)


def select_rows(ctx: ForwardContext, rows: torch.Tensor) -> ForwardContext:
    """Context for the steps after this one with these rows only, int64[n]; items keep their numbers, conversations get
    those of their rows."""
    # old number of a conversation -> its new one; -1: it is finished, and so are its items
    numbers = torch.full((len(ctx.sequence_ids),), -1, device=rows.device)
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
        notes={},
    )
