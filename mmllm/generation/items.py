"""Items of the requests that begin: encoded together, each once however many conversations show it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from mmllm.generation.memory import Recent
from mmllm.model.reading import Reader, Shown

if TYPE_CHECKING:
    from mmllm.generation.answers import Request
    from mmllm.model.inputs import Item

AT_ONCE = 16
"""Most items in one pass of an encoder."""

ShownOf = dict[str, list[Shown | None]]
"""Placeholder -> its items in order; None where none of an item's places is read any more."""
Named = tuple[str, str, Hashable]
"""Digest of the set whose item it is, its placeholder, and what makes it the same."""
Wanted = dict[Named, tuple["Item", str, Reader]]
"""The item, the data key of a conversation that shows it, and who shows it."""


class Items:
    """Shows items, and keeps them."""

    def __init__(self, reader_of: Callable[[Request], Reader], n_bytes: int) -> None:
        self.reader_of = reader_of
        self.known: Recent[Shown] = Recent(n_bytes)
        self.encoded = 0
        """Items encoded so far."""

    def clear(self) -> None:
        """Forget what was encoded."""
        self.known.clear()

    def missing(self, request: Request, start: int) -> int:
        """How many of its items have to be encoded, when it is read from position ``start`` on."""
        return sum(self.known.get(found) is None for found, _, _ in self._needed(request, start))

    def show(self, joining: Sequence[tuple[Request, int]]) -> list[ShownOf | Exception]:
        """The items of each request, read from its position on; an exception where one of its own cannot be encoded."""
        wanted: Wanted = {}
        here: dict[Hashable, Shown | Exception] = {}
        for request, start in joining:
            for found, item, _ in self._needed(request, start):
                known = self.known.get(found)
                if known is not None:
                    here[found] = known
                elif found not in here:
                    wanted[found] = (item, request.encoded.dataset, self.reader_of(request))
        for of in dict.fromkeys(found[:2] for found in wanted):
            own = [found for found in wanted if found[:2] == of]
            for begin in range(0, len(own), AT_ONCE):
                here |= self._encode(own[begin : begin + AT_ONCE], wanted)
        return [self._of(request, start, here) for request, start in joining]

    def _encode(self, some: Sequence[Named], wanted: Wanted) -> dict[Hashable, Shown | Exception]:
        """Items of one placeholder of one set."""
        (_, key, _), reader = some[0], wanted[some[0]][2]
        try:
            shown = reader.show(key, [wanted[found][0] for found in some], [wanted[found][1] for found in some])
        except Exception as error:
            if len(some) == 1:
                return {some[0]: error}
            # one by one: an item that cannot be encoded is the fault of those who show it alone
            return {found: one for alone in some for found, one in self._encode([alone], wanted).items()}
        self.encoded += len(some)
        for found, one in zip(some, shown, strict=True):
            self.known.put(found, one)
        return dict(zip(some, shown, strict=True))

    def _of(self, request: Request, start: int, here: dict[Hashable, Shown | Exception]) -> ShownOf | Exception:
        media, reader = request.encoded.media, self.reader_of(request)
        result: ShownOf = {key: [None] * len(items) for key, items in media.items() if reader.is_cached(key)}
        for found, _, number in self._needed(request, start):
            one = here[found]
            if isinstance(one, Exception):
                return one
            result[found[1]][number] = one
        return result

    def _needed(self, request: Request, start: int) -> Iterator[tuple[Named, Item, int]]:
        """(what makes it the same, the item, its number) of each item that a position from ``start`` on reads."""
        encoded, reader = request.encoded, self.reader_of(request)
        whose = "" if request.learned is None else request.learned.digest
        ends = {(span.key, span.item): span.start + span.length for span in encoded.spans}  # of its last part
        for key, items in encoded.media.items():
            if not reader.is_cached(key):
                continue
            # an adapter inside the encoder may read of which data a conversation is
            dataset = encoded.dataset if reader.is_adapted(key) else ""
            for number, item in enumerate(items):
                if reader.reads_again(key) or ends[key, number] > start:
                    yield (whose, key, (request.tenant, request.digests[key][number], dataset)), item, number
