"""Many conversations read in one packed row at each step: pieces of prompts beside single tokens of answers.

What was read is kept and found again by later conversations that begin alike (``shelf``), items are encoded once
(``items``). ``engine`` uses it for every model whose parts can work so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.generation.answers import Request
from mmllm.generation.items import Items
from mmllm.generation.memory import Sizes
from mmllm.generation.prefixes import Kept
from mmllm.generation.shelf import Shelf
from mmllm.model.reading import Conversation, Reader

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM

PIECE = 512
"""Most positions of a pass while answers wait for their next token."""
LONG_PIECE = 2048
"""Most positions of a pass while none does."""
NEW_ITEMS = 4
"""Items encoded between two steps, about, while answers wait for their next token."""


@dataclass(eq=False)
class Row:
    """A request, its positions' keys and its conversation."""

    request: Request
    keys: list[Hashable]
    kept: Kept
    talk: Conversation

    @property
    def answers(self) -> bool:
        """Whether its prompt is read."""
        return self.talk.stored.length >= self.talk.prompt.length


class Packed:
    """Rows that join and leave at every step."""

    def __init__(self, model: MultimodalLM, sizes: Sizes) -> None:
        self.model, self.sizes = model, sizes
        self.reader = Reader(model)
        self.items = Items(self.reader_of, sizes.media_bytes)
        self.shelf = Shelf(model, sizes.kv_bytes)
        self._rows: list[Row] = []

    def reader_of(self, request: Request) -> Reader:
        """Who shows a request's items and begins its conversation."""
        return self.reader

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        return [row.request for row in self._rows]

    @property
    def readers_of_text(self) -> str:
        """Connectors whose tokens depend on the text around their items."""
        return ", ".join(f"connectors.{key}" for key in self.model.inputs if not self.reader.is_cached(key))

    def forget(self) -> None:
        """Let go of all that nobody reads on now."""
        self.shelf.clear()
        self.items.clear()

    # ---- joining

    def admit(self, waiting: deque[Request], rows: int, reuse: bool = True) -> None:
        """Let requests begin, in order, up to ``rows`` at once; one whose beginning is being read just now waits."""
        if not self._rows and self.shelf.is_stale():
            self.forget()
        self.shelf.reuses = reuse and self.shelf.can_reuse
        joining: list[tuple[Request, list[Hashable], Kept]] = []
        new_items = 0
        busy = any(row.answers for row in self._rows)
        for request in list(waiting):
            if len(self._rows) + len(joining) >= rows or (busy and new_items >= NEW_ITEMS):
                break
            keys = self.shelf.keys_of(request)
            found = self.shelf.find(keys, request.encoded)
            if self.shelf.is_being_read(found):
                continue
            kept = self.shelf.place(keys, len(keys) + request.limit - 1, found, not self._rows and not joining)
            if kept is None:
                break
            waiting.remove(request)
            request.cached_tokens = kept.stored.length
            joining.append((request, keys, kept))
            new_items += self.items.missing(request, kept.stored.length)
        self._begin(joining)

    def _begin(self, joining: Sequence[tuple[Request, list[Hashable], Kept]]) -> None:
        """Encode what is not known yet, all at once, and open the conversations."""
        found = self.items.show([(request, kept.stored.length) for request, _, kept in joining])
        for (request, keys, kept), shown in zip(joining, found, strict=True):
            try:
                if isinstance(shown, Exception):
                    raise shown
                reader = self.reader_of(request)
                batch = collate([request.encoded], reader.model.inputs, self.model.llm.positions)
                talk = reader.begin(batch.to(self.model.llm.device), shown, kept.stored)
            except Exception as error:
                self.shelf.drop(kept)
                request.fail(error)
            else:
                self._rows.append(Row(request, keys, kept, talk))

    # ---- going on

    def advance(self) -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
        """Run a pass: its metrics, the requests whose next token is due, and their logits float[n, V]."""
        parts = self._parts()
        if parts:
            yield from self._read(parts)

    def _parts(self) -> list[tuple[Row, int]]:
        """What the next pass reads: a token of each answer, then prompts in the order in which they came."""
        parts = [(row, 1) for row in self._rows if row.answers]
        room = (PIECE if parts else LONG_PIECE) - len(parts)
        n_answers = len(parts)
        for row in self._rows:
            length = row.talk.readable(room) if room > 0 and not row.answers else 0
            # more than there is room for, where it cannot be cut, is read alone
            if length > 0 and (length <= room or len(parts) == n_answers):
                parts.append((row, length))
                room -= length
        return parts

    def _read(self, parts: list[tuple[Row, int]]) -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
        """One pass, or where it fails one for each conversation, so that only the one at fault ends."""
        try:
            ctx, logits = self.reader.read([(row.talk, length) for row, length in parts])
        except Exception as error:
            if len(parts) == 1:
                parts[0][0].request.fail(error)
                return
            for part in parts:
                yield from self._read([part])
            return
        for row, _ in parts:
            if row.answers:
                row.talk.tokens.clear()  # all places are read
        yield self.model.metrics(ctx), [row.request for row, _ in parts if not row.talk.unread], logits

    def said(self, request: Request, token: int) -> None:
        """Note the token that was chosen."""
        next(row for row in self._rows if row.request is request).talk.said.append(token)

    # ---- leaving

    def sweep(self) -> None:
        """Let go of the rows whose requests are done; what was read of them is kept for others."""
        for row in [row for row in self._rows if row.request.done]:
            self._rows.remove(row)
            if row.request.error is None:
                self.shelf.put(row.kept, [*row.keys, *row.talk.said])
            else:
                self.shelf.drop(row.kept)
        if not self._rows:
            self.reader.forget()
