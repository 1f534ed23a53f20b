"""Passes over conversations of several sets in one row; each set's own make one stretch of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch

from mmllm.hooks import ForwardContext
from mmllm.hooks.context import Stretch
from mmllm.hooks.pieces import Piece, context_of_pieces
from mmllm.model.reading import Conversation, Reader

Talks = Sequence[tuple[Conversation, Piece]]


class SetsReader(Reader):
    """Reads what the readers of several sets began; conversations of one set have to stand side by side."""

    def context(self, conversations: list[Conversation], pieces: Sequence[Piece]) -> ForwardContext:
        """Context of the pass: it knows of no media, which the contexts of its stretches do."""
        row = context_of_pieces(pieces, ())
        return replace(row, stretches=_stretches(list(zip(conversations, pieces, strict=True))))

    def _with_media(
        self, embeds: torch.Tensor, ctx: ForwardContext, conversations: list[Conversation], pieces: Sequence[Piece]
    ) -> torch.Tensor:
        start = 0
        places, tokens = [], []
        for one, piece in zip(conversations, pieces, strict=True):
            for key, every in one.tokens.items():
                begin, end = piece.inside(key)
                if end > begin:
                    places.append(piece.prompt.ctx.media_positions[key][begin:end] + (start - piece.start))
                    tokens.append(every[begin:end].to(embeds.dtype))
            start += piece.length
        return embeds.index_copy(0, torch.cat(places), torch.cat(tokens)) if places else embeds

    def _positionwise(self, conversations: list[Conversation]) -> bool:
        return all(one.reader.model.positionwise for one in conversations)


def _stretches(talks: Talks) -> tuple[Stretch, ...]:
    found = []
    start = first = 0
    for reader, group in groupby(talks, key=lambda pair: pair[0].reader):
        own = list(group)
        end = start + sum(piece.length for _, piece in own)
        shows = tuple(piece.prompt.has_media for _, piece in own)
        made = Stretch(reader.model, start, end, first, shows, lambda reader=reader, own=own: _alone(reader, own))  # type: ignore[misc]
        found.append(made)
        start, first = end, first + len(own)
    return tuple(found)


def _alone(reader: Reader, own: Talks) -> ForwardContext:
    return reader.context([one for one, _ in own], [piece for _, piece in own])
