"""What answering may take of memory, and the items that were encoded, kept until others need the room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmllm.model.reading import Shown
    from mmllm.recipe.models import Serve


@dataclass(frozen=True)
class Sizes:
    """How much is answered at once and kept for later."""

    rows: int = 32
    """Conversations answered at once."""
    kv_bytes: int = 2**30
    """Keys and values of these and of earlier conversations. One conversation is answered whatever it takes."""
    media_bytes: int = 2**28
    """Encoded media; and as much for files that were read."""

    @classmethod
    def of(cls, serve: Serve) -> Sizes:
        """Read a recipe's ``serve``."""
        return cls(serve.rows, serve.kv_memory, serve.media_memory)


class ShownItems:
    """Encoded items by their content; the one used longest ago goes first."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.used = 0
        """Bytes that are kept now."""
        self._items: OrderedDict[Hashable, Shown] = OrderedDict()

    def get(self, content: Hashable) -> Shown | None:
        """The item of this content, if it is still there."""
        found = self._items.get(content)
        if found is not None:
            self._items.move_to_end(content)
        return found

    def put(self, content: Hashable, shown: Shown) -> None:
        """Keep an item, unless it alone is over the limit."""
        if content in self._items or shown.n_bytes > self.n_bytes:
            return
        self._items[content] = shown
        self.used += shown.n_bytes
        while self.used > self.n_bytes:
            self.used -= self._items.popitem(last=False)[1].n_bytes

    def clear(self) -> None:
        """Forget all of them."""
        self._items.clear()
        self.used = 0
