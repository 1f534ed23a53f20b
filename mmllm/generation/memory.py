"""What answering may take of memory, and what is kept of media until others need the room."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
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


class Sized(Protocol):
    """A value that says what it takes."""

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        ...


Value = TypeVar("Value", bound=Sized)


class Recent(Generic[Value]):
    """Values by what makes them the same, within so many bytes; those used longest ago go first. Safe for threads."""

    def __init__(self, n_bytes: int) -> None:
        self._values: Any = LRUCache(n_bytes, getsizeof=lambda value: value.n_bytes)
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are kept now."""
        return int(self._values.currsize)

    def get(self, content: Hashable) -> Value | None:
        """The value of this content, if it is still there."""
        with self._lock:
            found: Value | None = self._values.get(content)
            return found

    def put(self, content: Hashable, value: Value) -> None:
        """Keep a value, unless it alone is over the limit."""
        with self._lock:
            if value.n_bytes <= self._values.maxsize:
                self._values[content] = value

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._values.clear()
