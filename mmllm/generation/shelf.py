"""Room for keys and values: conversations take it, leave what was read for those that begin alike, and give way."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mmllm.generation import content
from mmllm.generation.prefixes import BLOCK, WORTH, Kept, Prefixes
from mmllm.model.reading import KeyValues
from mmllm.model.weights_state import weights_state

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded
    from mmllm.generation.answers import Request
    from mmllm.model.model import MultimodalLM


Known = tuple[Kept, int]
"""A conversation, and for how many positions another begins like it."""


class Shelf:
    """Keys and values of running and finished conversations under one budget."""

    def __init__(self, model: MultimodalLM, n_bytes: int) -> None:
        self.model, self.n_bytes = model, n_bytes
        self.can_reuse = all(not entry.connector.reads_text for entry in model.inputs.values())
        """Whether conversations that begin alike could share what was read; not where tokens of items depend on the
        text."""
        self.reuses = self.can_reuse
        """Whether they do."""
        self._ahead = any(one.reads_later_items for one in model.connectors.values())
        self._prefixes = Prefixes()
        self.position_bytes = model.llm.position_bytes
        """Bytes that a position takes in all layers, those that connectors add included once one was read."""
        self._state: Hashable = None

    @property
    def n_positions(self) -> int:
        """Positions that there is room for in all conversations that are kept."""
        return sum(kept.stored.capacity for kept in (*self._prefixes.running, *self._prefixes.idle))

    def is_stale(self) -> bool:
        """Whether the model was changed since this was last asked."""
        before, self._state = self._state, weights_state(self.model)
        return before != self._state

    def clear(self) -> None:
        """Forget what nobody reads on."""
        self._prefixes.clear()

    def keys_of(self, request: Request) -> list[Hashable]:
        """Keys of the positions of its prompt."""
        keys = content.position_keys(request.encoded, request.digests, self._ahead)
        keys[0] = (request.tenant, keys[0])
        return keys

    def find(self, keys: Sequence[Hashable], encoded: Encoded) -> Known | None:
        """The conversation that begins most like these of ``encoded``, and for how many positions that are of use, the
        last one never; None: nothing is known of them."""
        found = self._prefixes.find(keys) if self.reuses else None
        # the last position is always read: its logits are the answer's first token
        return None if found is None else (found[0], content.whole(encoded, min(found[1], len(keys) - 1)))

    @staticmethod
    def is_being_read(found: Known | None) -> bool:
        """Whether another conversation reads what these begin with: waiting for it is less work than reading too."""
        return found is not None and found[1] - found[0].stored.length >= WORTH

    def place(self, keys: Sequence[Hashable], capacity: int, found: Known | None, alone: bool) -> Kept | None:
        """Room for ``capacity`` positions, holding what ``found`` knows of them; None: there is none now.

        ``alone``: nobody else runs, so it is given whatever it takes.
        """
        source, known = (None, 0) if found is None else found
        # what is being read never ends inside a stretch that is read in one piece
        known = 0 if source is None else min(known, source.stored.length)
        if not self._make_room(capacity, source) and not alone:
            return None
        if source is None or known < BLOCK:
            stored = KeyValues(capacity)
        elif source in self._prefixes.idle and source.stored.length - known < WORTH:
            # taken over instead of copied: next to nothing of it is not shared
            self._prefixes.remove(source)
            stored = source.stored
            stored.length = known
            stored.reserve(capacity)
        else:
            stored = source.stored.copied(known, capacity)
        kept = Kept(keys, stored)
        self._prefixes.add(kept, running=True)
        return kept

    def _make_room(self, capacity: int, source: Kept | None) -> bool:
        """Let those used longest ago go until ``capacity`` positions more fit the budget; False: they never do."""
        self.position_bytes = max([self.position_bytes, *(k.stored.position_bytes for k in self._prefixes.running)])
        room = self.n_bytes // self.position_bytes - capacity - self.n_positions
        while room < 0 and (oldest := self._prefixes.oldest(source)) is not None:
            self._prefixes.remove(oldest)
            room += oldest.stored.capacity
        return room >= 0

    def put(self, kept: Kept, keys: Sequence[Hashable]) -> None:
        """A conversation is over: keep what was read of it, whose positions have these keys."""
        self._prefixes.remove(kept)
        if self.reuses and kept.stored.length >= BLOCK:
            self._prefixes.add(Kept(keys[: kept.stored.length], kept.stored), running=False)

    def drop(self, kept: Kept) -> None:
        """A conversation failed: what was stored of it is not used again."""
        self._prefixes.remove(kept)
