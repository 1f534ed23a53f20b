"""Encoded samples -> one packed Batch: conversations end to end, no pad tokens; the last step before the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from mmllm.batches.positions import positions
from mmllm.batches.sample import Encoded, Item, MediaInput
from mmllm.types import SEQUENTIAL, Batch, PositionScheme, Segment


def collate(samples: Sequence[Encoded], inputs: Mapping[str, MediaInput], scheme: PositionScheme = SEQUENTIAL) -> Batch:
    """Pack B samples into one row of S positions, in the order given; B = 0 gives an empty batch.

    ``scheme``: how the LLM counts positions.

    Items of a key are numbered over the whole batch, sample after sample; ``media`` and ``media_positions`` hold only
    placeholders that have items here.
    """
    lengths = [len(sample.ids) for sample in samples]
    bounds = [0, *accumulate(lengths)]
    row = torch.arange(bounds[-1])
    sequence_ids = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(lengths, dtype=torch.int64))
    media_ids = torch.full_like(row, -1)
    items: dict[str, list[Item]] = {}
    places: dict[str, list[torch.Tensor]] = {}
    starts: dict[str, list[int]] = {}
    owners: dict[str, list[int]] = {}
    for number, (sample, offset) in enumerate(zip(samples, bounds[:-1], strict=True)):
        first = {key: len(items.get(key, [])) for key in sample.media}
        for key, found in sample.media.items():
            items.setdefault(key, []).extend(found)
        # item after item, as the connector's tokens come; in the text, items of several keys take turns
        for span in sorted(sample.spans, key=lambda span: (span.key, span.item, span.start)):
            start = offset + span.start
            media_ids[start : start + span.length] = first[span.key] + span.item
            places.setdefault(span.key, []).append(row[start : start + span.length])
            if len(owners.setdefault(span.key, [])) == first[span.key] + span.item:  # its first part
                starts.setdefault(span.key, []).append(start)
                owners[span.key].append(number)
    # 0 at places, not a pad id: it is looked up in the embedding table like any other id, must exist in every
    # vocabulary, and is overwritten before the first block; some tokenizers have no pad token at all.
    return Batch(
        input_ids=_flat([sample.ids for sample in samples]),
        labels=_flat([sample.labels for sample in samples]),
        position_ids=torch.cat([_positions(sample, scheme) for sample in samples], dim=1)
        if samples
        else row.expand(scheme.axes, 0),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        sequence_ids=sequence_ids,
        media_ids=media_ids,
        media={key: inputs[key].collate(found) for key, found in items.items()},
        media_positions={key: torch.cat(rows) for key, rows in places.items()},
        item_starts={key: torch.tensor(values) for key, values in starts.items()},
        item_sequence={key: torch.tensor(values) for key, values in owners.items()},
        names=[sample.name for sample in samples],
        dataset_names=[sample.dataset for sample in samples],
        user_turn=_flat([sample.user_turn for sample in samples]) if all(s.user_turn for s in samples) else None,
        segments=_segments(samples, bounds) if any(sample.segments for sample in samples) else None,
        n_conversations=sum(sample.n_conversations for sample in samples),
        bidirectional=tuple(
            one.moved(offset)
            for sample, offset in zip(samples, bounds[:-1], strict=True)
            for one in sample.bidirectional
        ),
    )


def _positions(sample: Encoded, scheme: PositionScheme) -> torch.Tensor:
    return positions(sample.spans, len(sample.ids), scheme) if sample.position_ids is None else sample.position_ids


def _segments(samples: Sequence[Encoded], bounds: Sequence[int]) -> tuple[Segment, ...]:
    """Stretches of the whole row."""
    found: list[Segment] = []
    for sample, offset in zip(samples, bounds[:-1], strict=True):
        for one in sample.segments or (Segment(0, len(sample.ids)),):
            prefix = None if one.prefix is None else (offset + one.prefix[0], offset + one.prefix[1])
            found.append(Segment(offset + one.start, offset + one.end, prefix))
    return tuple(found)


def _flat(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64)
