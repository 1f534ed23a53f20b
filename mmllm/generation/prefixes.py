"""Keys and values of conversations, found again by how a new conversation begins; the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmllm.model.reading import KeyValues

BLOCK = 8
"""Positions by which beginnings are looked up; a shorter one is not worth keeping."""
WORTH = 32
"""Positions that are worth waiting for, while another conversation reads them; and a rest that is not worth keeping."""
COMPARED = 4
"""Most conversations with the same blocks that are compared position by position."""


class Kept:
    """A conversation that was read, or is being read."""

    def __init__(self, keys: Sequence[Hashable], stored: KeyValues) -> None:
        """``keys``: of its positions, see ``content.position_keys``; of a conversation being read, of its prompt."""
        self.keys, self.stored = list(keys), stored
        self.blocks = _blocks(self.keys)

    def common(self, keys: Sequence[Hashable]) -> int:
        """How many positions both begin with."""
        pairs = enumerate(zip(self.keys, keys, strict=False))
        return next((n for n, (own, other) in pairs if own != other), min(len(self.keys), len(keys)))


class Prefixes:
    """All conversations that have keys and values, by the blocks of positions that they begin with."""

    def __init__(self) -> None:
        self._by_block: dict[int, dict[Kept, None]] = {}
        self.idle: OrderedDict[Kept, None] = OrderedDict()
        """Those that nobody reads on now, the one used longest ago first."""
        self.running: dict[Kept, None] = {}

    def add(self, kept: Kept, running: bool) -> None:
        """Let a conversation be found."""
        (self.running if running else self.idle)[kept] = None
        for block in kept.blocks:
            self._by_block.setdefault(block, {})[kept] = None

    def remove(self, kept: Kept) -> None:
        """Let it be found no more."""
        self.running.pop(kept, None)
        self.idle.pop(kept, None)
        for block in kept.blocks:
            others = self._by_block[block]
            others.pop(kept, None)
            if not others:
                del self._by_block[block]

    def find(self, keys: Sequence[Hashable]) -> tuple[Kept, int] | None:
        """The conversation that begins most like ``keys``, and for how many positions; None: for less than a block.

        It may not have been read that far yet. Its positions are compared, so equal hashes of others do no harm.
        """
        for block in reversed(_blocks(keys)):
            newest = islice(reversed(self._by_block.get(block, {})), COMPARED)
            found = [(kept, kept.common(keys)) for kept in newest]
            if found:
                # of those that begin alike for as long the one that was read furthest
                best = max(found, key=lambda pair: (pair[1], min(pair[1], pair[0].stored.length)))
                if best[0] in self.idle:
                    self.idle.move_to_end(best[0])
                return best if best[1] >= BLOCK else None
        return None

    def oldest(self, spared: Kept | None) -> Kept | None:
        """The idle conversation used longest ago, other than ``spared``."""
        return next((kept for kept in self.idle if kept is not spared), None)

    def clear(self) -> None:
        """Forget what nobody reads on."""
        for kept in list(self.idle):
            self.remove(kept)


def _blocks(keys: Sequence[Hashable]) -> list[int]:
    """A hash for each whole block from the beginning to its end."""
    found = []
    before = 0
    for start in range(0, len(keys) - BLOCK + 1, BLOCK):
        before = hash((before, tuple(keys[start : start + BLOCK])))
        found.append(before)
    return found
