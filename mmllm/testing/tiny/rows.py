"""Conversations of random tokens and media for tests of a whole model, packed as the loader packs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.model.inputs import Item
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch, Bidirectional, Segment


@dataclass(frozen=True)
class Row:
    """One conversation: ``text`` and ``places`` alternate; the last ``n_labels`` tokens carry labels."""

    seed: int
    pieces: tuple[int | str, ...]
    """A number: that many text tokens; a placeholder: the places of one item."""
    n_labels: int = 3
    name: str = field(default="")
    source: str = field(default="")
    """Data key."""


def batch_of(model: MultimodalLM, rows: Sequence[Row]) -> Batch:
    """The rows packed in order, with random media drawn from each row's seed.

    The first two pieces of text are the user's first message, each later one is a message of its own; labelled text is
    the assistant's.
    """
    packed = _Packed(model)
    for row in rows:
        packed.add(row)
    return packed.batch(rows)


class _Packed:
    """What the conversations so far make of one packed row."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        none = torch.zeros(0, dtype=torch.int64)
        self.ids, self.labels, self.media_ids, self.turns = [none], [none], [none], [none]
        self.sizes: list[int] = []
        self.items: dict[str, list[Item]] = {key: [] for key in model.inputs}
        self.positions: dict[str, list[int]] = {key: [] for key in model.inputs}
        self.starts: dict[str, list[int]] = {key: [] for key in model.inputs}
        self.owners: dict[str, list[int]] = {key: [] for key in model.inputs}
        self.bidirectional: list[Bidirectional] = []

    def add(self, row: Row) -> None:
        """One more conversation."""
        generator = torch.Generator().manual_seed(row.seed)
        before, known = sum(map(len, self.ids)), len(self.bidirectional)
        ids: list[Tensor] = []
        turns: list[Tensor] = []
        for piece in row.pieces:
            if isinstance(piece, int):
                n_texts = sum(bool(len(numbers) and numbers[0] >= 0) for numbers in turns)
                turns.append(torch.full((piece,), max(0, n_texts - 1)))
                ids.append(torch.randint(3, 360, (piece,), generator=generator))
                self.media_ids.append(torch.full((piece,), -1))
            else:
                size = self._item(piece, before + sum(map(len, ids)), generator)
                turns.append(torch.full((size,), -1))
                ids.append(torch.zeros(size, dtype=torch.int64))
        self.ids.append(torch.cat(ids))
        self.sizes.append(len(self.ids[-1]))
        if self.model.llm.prefix:
            prefix = Bidirectional(before, before + self.sizes[-1] - row.n_labels, windowed=False)
            behind = [one for one in self.bidirectional[known:] if one.start >= prefix.end]
            self.bidirectional[known:] = [prefix, *behind]
        labels = torch.full_like(self.ids[-1], IGNORE_INDEX)
        if row.n_labels:
            labels[-row.n_labels :] = self.ids[-1][-row.n_labels :]
        self.labels.append(labels)
        self.turns.append(torch.cat(turns).masked_fill(labels != IGNORE_INDEX, -1))

    def _item(self, key: str, start: int, generator: torch.Generator) -> int:
        """Draw an item for the placeholder ``key`` at position ``start``; gives the number of its places."""
        entry = self.model.inputs[key]
        item: Item = {
            name: {
                word: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
                for word, value in processor.blank().items()
            }
            for name, processor in entry.processors.items()
        }
        size = sum(span.length for span in entry.layout(item))
        if entry.text.bidirectional:
            self.bidirectional.append(Bidirectional(start, start + size))
        self.positions[key] += range(start, start + size)
        self.starts[key].append(start)
        self.owners[key].append(len(self.sizes))
        self.media_ids.append(torch.full((size,), len(self.items[key])))
        self.items[key].append(item)
        return size

    def batch(self, rows: Sequence[Row]) -> Batch:
        """All of it."""
        sizes = torch.tensor(self.sizes, dtype=torch.int64)
        shown = [key for key, items in self.items.items() if items]
        return Batch(
            input_ids=torch.cat(self.ids),
            labels=torch.cat(self.labels),
            position_ids=torch.cat([*(torch.arange(n) for n in self.sizes), self.ids[0]])[None],
            cu_seqlens=F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32),
            sequence_ids=torch.repeat_interleave(torch.arange(len(sizes)), sizes),
            media_ids=torch.cat(self.media_ids),
            media={key: self.model.inputs[key].collate(self.items[key]) for key in shown},
            media_positions={key: torch.tensor(self.positions[key], dtype=torch.int64) for key in shown},
            item_starts={key: torch.tensor(self.starts[key]) for key in shown},
            item_sequence={key: torch.tensor(self.owners[key]) for key in shown},
            names=[row.name or f"row {row.seed}" for row in rows],
            dataset_names=[row.source for row in rows],
            user_turn=torch.cat(self.turns),
            bidirectional=tuple(self.bidirectional),
        )


def shortened(batch: Batch, n: int) -> Batch:
    """The batch without the last ``n`` (text) tokens of each conversation."""
    lengths = batch.cu_seqlens.diff()
    kept = batch.position_ids[0] < (lengths - n)[batch.sequence_ids]
    new = kept.long().cumsum(0) - 1
    names = ("input_ids", "labels", "position_ids", "sequence_ids", "user_turn")
    row: dict[str, Any] = {name: getattr(batch, name)[..., kept] for name in names}
    bounds = F.pad((lengths - n).cumsum(0), (1, 0)).to(torch.int32)
    # what is taken away is text behind them
    places = new.tolist()
    row["bidirectional"] = tuple(one.moved(places[one.start] - one.start) for one in batch.bidirectional)
    for name in ("media_positions", "item_starts"):
        row[name] = {key: new[places] for key, places in getattr(batch, name).items()}
    return replace(batch, **row, media_ids=batch.media_ids[kept], cu_seqlens=bounds)


def begun_alike(model: MultimodalLM) -> tuple[Batch, Batch]:
    """Three conversations that begin alike, and one of text: each by itself, and the three as one tree."""
    rows = [Row(8, (4, "image", 3, length), source="captions") for length in (6, 4, 7)] + [Row(2, (9,), source="text")]
    alone, small = batch_of(model, rows), batch_of(model, [rows[0], rows[3]])
    begin = int(small.cu_seqlens[1]) - 6
    later = (alone.position_ids[0] >= begin) & (alone.sequence_ids < 3)
    # the same seed draws the same tokens: what follows the beginning is made another text in each
    ids = torch.where(later, 3 + (alone.input_ids + 11 * alone.sequence_ids) % 357, alone.input_ids)
    labels = torch.where(alone.labels != IGNORE_INDEX, ids, IGNORE_INDEX)
    alone = replace(alone, input_ids=ids, labels=labels)
    kept = later | (alone.sequence_ids % 3 == 0)
    sizes = [begin, *(6, 4, 7), 9]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    stretches = list(pairwise(ends))
    segments = [Segment(0, begin), *(Segment(a, b, (0, begin)) for a, b in stretches[:3]), Segment(*stretches[3])]
    names = ("input_ids", "labels", "media_ids", "user_turn")
    row: dict[str, Any] = {name: getattr(alone, name)[kept] for name in names}
    row["position_ids"] = alone.position_ids[:, kept]
    row["sequence_ids"] = (alone.sequence_ids[kept] == 3).long()
    bounds = torch.tensor([0, ends[3], ends[4]], dtype=torch.int32)
    return alone, replace(small, **row, cu_seqlens=bounds, segments=tuple(segments), n_conversations=4)
