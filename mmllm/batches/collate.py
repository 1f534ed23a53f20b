"""Encoded samples -> one packed Batch: conversations end to end, no pad tokens; the last step before the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from mmllm.batches.sample import Encoded, Inputs, Reader
from mmllm.types import Batch


def collate(samples: Sequence[Encoded], readers: Mapping[str, Reader]) -> Batch:
    """Pack B samples into one row of S positions, in the order given; B = 0 gives an empty batch.

    Items of a key are numbered over the whole batch, sample after sample; ``media`` and ``places`` hold only keys that
    have items here.
    """
    lengths = [len(sample.ids) for sample in samples]
    bounds = [0, *accumulate(lengths)]
    row = torch.arange(bounds[-1])
    sequence_ids = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(lengths, dtype=torch.int64))
    media_ids = torch.full_like(row, -1)
    items: dict[str, list[Inputs]] = {}
    places: dict[str, list[torch.Tensor]] = {}
    starts: dict[str, list[int]] = {}
    owners: dict[str, list[int]] = {}
    for number, (sample, offset) in enumerate(zip(samples, bounds[:-1], strict=True)):
        first = {key: len(items.get(key, [])) for key in sample.media}
        for key, inputs in sample.media.items():
            items.setdefault(key, []).extend(inputs)
        for span in sorted(sample.spans, key=lambda span: (span.key, span.item, span.start)):
            start = offset + span.start
            media_ids[start : start + span.length] = first[span.key] + span.item
            places.setdefault(span.key, []).append(row[start : start + span.length])
            if len(owners.setdefault(span.key, [])) == first[span.key] + span.item:  # its first part
                starts.setdefault(span.key, []).append(start)
                owners[span.key].append(number)
    return Batch(
        input_ids=_flat([sample.ids for sample in samples]),
        labels=_flat([sample.labels for sample in samples]),
        position_ids=row - torch.tensor(bounds)[sequence_ids],
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        sequence_ids=sequence_ids,
        media_ids=media_ids,
        media={key: readers[key].collate(inputs) for key, inputs in items.items()},
        places={key: torch.cat(rows) for key, rows in places.items()},
        starts={key: torch.tensor(values) for key, values in starts.items()},
        owners={key: torch.tensor(values) for key, values in owners.items()},
        names=[sample.name for sample in samples],
        sources=[sample.source for sample in samples],
        questions=_flat([sample.questions for sample in samples]) if all(s.questions for s in samples) else None,
    )


def _flat(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64)
