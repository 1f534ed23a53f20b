"""A row's tokens as readable pieces: what is learned, what is only read, control tokens, and places of media."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmllm.batches.sample import Encoded
from mmllm.types import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["text", "control", "media"]


@dataclass(frozen=True)
class Piece:
    """One token, several that share a character, or the places of one span."""

    text: str
    """Characters it stands for; of places ``<image> 1``."""
    kind: Kind
    """``control``: one of the tokenizer's own special tokens, as the chat template writes them."""
    learned: bool
    """Whether it has labels: the loss falls on it."""
    n_tokens: int
    ids: tuple[int, ...] = ()
    """Token ids; none of places."""


def pieces_of(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Return the row's tokens in order; their ``n_tokens`` add up to its length."""
    control = control_ids(tokenizer)
    found: list[Piece] = []
    pending: list[int] = []
    stream = _Stream(tokenizer)
    spans = {span.start: span for span in encoded.spans if span.length}
    empty = [span for span in encoded.spans if not span.length]
    position = 0
    while position < len(encoded.ids):
        found += [_places(f"<{one.key}> {one.item + 1}", 0) for one in empty if one.start == position]
        span = spans.get(position)
        if span is not None:
            found += _text(pending, encoded.labels[position - len(pending) : position], stream.rest(), control)
            pending = []
            found.append(_places(f"<{span.key}> {span.item + 1}", span.length))
            position += span.length
            continue
        if pending and _differs(encoded, position, control):
            found += _text(pending, encoded.labels[position - len(pending) : position], stream.rest(), control)
            pending = []
        pending.append(encoded.ids[position])
        text = stream.step(encoded.ids[position])
        position += 1
        if text is not None:
            found += _text(pending, encoded.labels[position - len(pending) : position], text, control)
            pending = []
    return found + _text(pending, encoded.labels[len(encoded.labels) - len(pending) :], stream.rest(), control)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the tokenizer's own tokens, those aside that are runs of blanks."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(number for number, token in added if not token.content.isspace())


class _Stream:
    """Text of tokens one after the other; a character of several tokens comes with its last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = tokenizer.backend_tokenizer
        self._new = lambda: DecodeStream(skip_special_tokens=False)
        self._stream, self._waiting = self._new(), list[int]()

    def step(self, number: int) -> str | None:
        self._waiting.append(number)
        text = self._stream.step(self._backend, number)
        if text is not None:
            self._waiting = []
        return text

    def rest(self) -> str:
        """What is no whole character."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            # the decoder would go on waiting for the rest of it
            self._stream = self._new()
        return self._backend.decode(waiting, skip_special_tokens=False) if waiting else ""


def _differs(encoded: Encoded, position: int, control: Collection[int]) -> bool:
    """Whether a token cannot be in one piece with the one before it."""
    before, now = encoded.labels[position - 1], encoded.labels[position]
    return (before == IGNORE_INDEX) != (now == IGNORE_INDEX) or encoded.ids[position] in control


def _text(ids: Sequence[int], labels: Sequence[int], text: str, control: Collection[int]) -> list[Piece]:
    if not ids:
        return []
    kind: Kind = "control" if len(ids) == 1 and ids[0] in control else "text"
    return [Piece(text, kind, labels[0] != IGNORE_INDEX, len(ids), tuple(ids))]


def _places(text: str, length: int) -> Piece:
    return Piece(text, "media", False, length)
