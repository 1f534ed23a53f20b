"""Attention of a row whose conversations go on: each reads the keys and values stored of what was read of it before.

The row holds pieces of prompts and single tokens of answers end to end, without pads; ``CausalLM.read`` runs it. Keys
and values lie in one :class:`KeyValues` per conversation, so conversations come and go without a copy of the others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from mmllm.llms.packing import cut
from mmllm.llms.scoring import Scoring, masked, repeated, seen_from
from mmllm.types import Bidirectional


class KeyValues:
    """Keys and values of one conversation, of every layer that attends; room for ``capacity`` positions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        """Positions that were read; what lies behind them is not valid."""
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def position_bytes(self) -> int:
        """Bytes that one position takes in all layers; 0 before the first pass."""
        pairs = (states for pair in self._layers.values() for states in pair)
        return sum(states.element_size() * states.shape[1] * states.shape[3] for states in pairs)

    def put(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store float[1, kv_heads, n, d] from position ``start`` on; returns all up to the last of them."""
        end = start + key.shape[2]
        if layer not in self._layers:
            self._layers[layer] = (self._empty(key), self._empty(value))
        found = []
        for states, new in zip(self._layers[layer], (key, value), strict=True):
            states[:, :, start:end] = new
            found.append(states[:, :, :end])
        return found[0], found[1]

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(1, like.shape[1], self.capacity, like.shape[3])

    def reserve(self, capacity: int) -> None:
        """Make room for at least ``capacity`` positions."""
        if capacity <= self.capacity:
            return
        # by half more at least, so that a chat which grows turn by turn is not copied in each
        moved = self.copied(self.length, max(capacity, self.capacity + self.capacity // 2))
        self.capacity, self._layers = moved.capacity, moved._layers

    def copied(self, length: int, capacity: int) -> KeyValues:
        """The first ``length`` positions once more, with room for ``capacity``."""
        other = KeyValues(capacity)
        other.length = length
        for layer, pair in self._layers.items():
            made = tuple(other._empty(states) for states in pair)
            for states, new in zip(pair, made, strict=True):
                new[:, :, :length] = states[:, :, :length]
            other._layers[layer] = (made[0], made[1])
        return other


@dataclass(frozen=True)
class Part:
    """A conversation's part of the row."""

    stored: KeyValues
    start: int
    """In the row."""
    length: int
    past: int
    """Positions of the conversation that are stored already."""
    both: Bidirectional | None = None
    """The bidirectional stretch that it is; None: it is causal."""
    queries: tuple[int, int] | None = None
    """Start and end of its queries in the row of queries, its last position or none; None: they lie as its keys do."""

    @property
    def places(self) -> slice:
        """In the row of keys."""
        return slice(self.start, self.start + self.length)

    @property
    def asked(self) -> slice:
        """In the row of queries."""
        return self.places if self.queries is None else slice(*self.queries)


@dataclass(frozen=True)
class StoredKeys:
    """Parts of one row, in order; made once per pass and handed to every layer as a keyword."""

    parts: tuple[Part, ...]
    masks: dict[tuple[int, int, int | None, bool], torch.Tensor] = field(default_factory=dict)
    """(queries, keys, window, whether those ahead are seen) -> who sees whom; the same in all layers of the pass."""

    @classmethod
    def of(
        cls, stored: Sequence[KeyValues], lengths: Sequence[int], bidirectional: Sequence[Bidirectional] = ()
    ) -> StoredKeys:
        """So many new positions of each conversation, one behind the other; stretches of that row are read whole.

        Raises:
            ValueError: a stretch is there in part.
        """
        parts = []
        row = 0
        for one, length in zip(stored, lengths, strict=True):
            for start, end, both in cut(row, row + length, bidirectional):
                # a stretch stores its keys before it attends, and what follows it stores them after it
                parts.append(Part(one, start, end - start, one.length + start - row, both))
            row += length
        return cls(tuple(parts))

    def mask(
        self, queries: int, keys: int, window: int | None, ahead: bool, device: torch.device
    ) -> torch.Tensor | None:
        """bool[queries, keys]; None: all see all."""
        if ahead and window is None:
            return None
        asked = (queries, keys, window, ahead)
        if asked not in self.masks:
            self.masks[asked] = seen_from(torch.arange(keys - queries, keys, device=device), keys, window, ahead)
        return self.masks[asked]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """Store the row's keys and values and attend, a conversation at a time: float[1, S, heads, d]."""
        found = []
        for one in self.parts:
            k, v = one.stored.put(layer, one.past, key[:, :, one.places], value[:, :, one.places])
            if one.asked.stop > one.asked.start:
                found.append(self._of_part(query[:, :, one.asked], k, v, scoring, one.both))
        return torch.cat(found, dim=2).transpose(1, 2)

    def at(self, positions: Sequence[int]) -> StoredKeys:
        """The same row where only ``positions`` ask, each the last of a conversation's part."""
        ends = {one.start + one.length - 1: number for number, one in enumerate(self.parts)}
        asked = {ends[position]: (place, place + 1) for place, position in enumerate(positions)}
        return replace(
            self, parts=tuple(replace(one, queries=asked.get(n, (0, 0))) for n, one in enumerate(self.parts))
        )

    def between(self, start: int, end: int) -> StoredKeys:
        """The parts of the row's positions from ``start`` to before ``end``, which cut none, as a row of their own."""
        inside = [one for one in self.parts if start <= one.start < end]
        return StoredKeys(tuple(replace(one, start=one.start - start) for one in inside))

    def _of_part(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
        both: Bidirectional | None,
    ) -> torch.Tensor:
        """The last positions of one conversation over all of it so far: float[1, heads, n, d]."""
        n, total, ahead = query.shape[2], key.shape[2], both is not None
        window = scoring.window if both is None or both.windowed else None
        bounded = None
        if window is not None and total > window:
            # what the first of them sees, and nothing in front of it
            first = max(0, total - n - window + 1)
            key, value, total = key[:, :, first:], value[:, :, first:], total - first
            bounded = window if n > 1 else None
        if n == 1 and scoring.softcap is None:
            # one query sees every key: the heads that share keys go along the axis of positions, read once for all
            grouped = query.reshape(1, key.shape[1], -1, query.shape[-1])
            found = F.scaled_dot_product_attention(grouped, key, value, scale=scoring.scale)
            return found.reshape(1, -1, 1, value.shape[-1])
        if n == total and bounded is None and scoring.softcap is None:
            if query.is_cuda:  # the kernel for float32 knows no grouped heads there
                key, value = repeated(query, key, value)
            shared = query.shape[1] != key.shape[1]
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=not ahead, scale=scoring.scale, enable_gqa=shared
            )
        return masked(query, key, value, scoring, self.mask(n, total, bounded, ahead, query.device))
