"""What hooks inside a frozen model know of the pass they run in, handed to each of them as its first argument.

A :class:`ForwardContext` belongs to one pass of the LLM, an :class:`EncoderContext` to one of an encoder. A
:class:`~mmllm.hooks.scope.Scope` hands the open one to the hooks; nothing about a pass is stored on a part, so passes
may be open side by side and recomputed blocks see the context of their own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from mmllm.types import Batch, Bidirectional, Segment

Value = TypeVar("Value")


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
    media_tokens: Mapping[str, torch.Tensor] | None = None
    """Placeholder -> int64[M], which of all tokens of these conversations' items fills each of ``media_positions``, in
    a pass over pieces of conversations; None: all of them do, in order."""
    text_embeds: torch.Tensor | None = None
    """float[S, D_llm], embeddings of the packed row before any media are merged in, for projectors that read text."""
    segments: tuple[Segment, ...] | None = None
    """See ``Batch.segments``; None: each conversation is one stretch of the row."""
    bidirectional: tuple[Bidirectional, ...] = ()
    """See ``Batch.bidirectional``; positions count over the flattened R * S. None of them is in the steps of a cached
    decoding after its first pass: what is said is causal."""
    wanted: torch.Tensor | None = None
    """int64[M], ascending: positions of the packed row whose final hidden states are asked for. None: all."""
    wanted_here: torch.Tensor | None = None
    """The same on the CPU, where they are known there."""
    host: Batch | None = None
    """The packed batch of this pass on the CPU, see ``Batch.host``; None in other passes."""
    item_groups: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Placeholder -> int64[N], number of the first of the items that stand together with it: of one conversation, each
    starting at most one token behind the one before."""
    stretches: tuple[Stretch, ...] | None = None
    """In a pass over conversations of several sets of learned weights: whose each of its positions are, in order. None:
    all connectors work at all of them."""
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


@dataclass(frozen=True, eq=False)
class Stretch:
    """Positions of a packed row, one behind the other, whose conversations are answered with one set's weights."""

    owner: Hashable
    """The set's model."""
    start: int
    end: int
    """Behind the last of its positions."""
    first: int
    """Number of its first conversation."""
    has_media: tuple[Mapping[str, bool], ...]
    """Of each of its conversations: placeholder -> whether it shows items."""
    make: Callable[[], ForwardContext]
    """Gives :attr:`ctx`, which not every pass needs."""

    @cached_property
    def ctx(self) -> ForwardContext:
        """The context of a pass over these positions alone."""
        return self.make()
