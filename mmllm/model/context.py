"""Facts of one pass of the LLM, for the connectors inside it: of a packed row, and of the rows of a decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from mmllm.types import IGNORE_INDEX, Batch, Pass


def packed(batch: Batch, keys: Iterable[str]) -> Pass:
    """The pass over a packed row: one row of S positions; ``keys`` are all encoder keys."""
    ids = batch.sequence_ids
    none = ids.new_empty(0)
    owners = {key: batch.owners.get(key, none) for key in keys}
    absent = torch.zeros(len(batch.names), dtype=torch.bool, device=ids.device)
    return Pass(
        sequence_ids=ids[None],
        real=torch.ones_like(ids[None], dtype=torch.bool),
        present={key: absent.index_fill(0, owner, True) for key, owner in owners.items()},
        items={key: _last_items(batch.starts.get(key, none), owner, ids)[None] for key, owner in owners.items()},
        owners=owners,
        places={key: batch.places.get(key, none) for key in owners},
        sources=tuple(batch.sources),
        spoken=(batch.labels != IGNORE_INDEX)[None],
        questions=None if batch.questions is None else batch.questions[None],
    )


def _last_items(starts: torch.Tensor, owners: torch.Tensor, sequence_ids: torch.Tensor) -> torch.Tensor:
    """int64[S]: number of the last item that starts at or before each position in its conversation, or -1."""
    inside = (starts < len(sequence_ids)).nonzero().squeeze(-1)
    marks = torch.full_like(sequence_ids, -1)
    # items without places may start at the same position: the last one counts
    marks = marks.scatter_reduce(0, starts[inside], inside, "amax").cummax(0).values
    if not len(owners):
        return marks
    own = (marks >= 0) & (owners[marks.clamp(min=0)] == sequence_ids)
    return torch.where(own, marks, -1)


def padded(flow: Pass, lengths: Sequence[int]) -> Pass:
    """A packed pass with each conversation, of these lengths, in a row of its own, padded on the left."""
    longest, device = max(lengths), flow.sequence_ids.device
    sizes = torch.tensor(lengths, device=device)
    ids = torch.arange(len(lengths), device=device)
    real = torch.arange(longest, device=device) >= (longest - sizes)[:, None]

    def rows(values: torch.Tensor) -> torch.Tensor:
        empty = torch.full(real.shape, -1, device=device).to(values.dtype)
        return empty.masked_scatter(real, values[0])

    flat = real.flatten().nonzero().squeeze(-1)  # packed position -> position in the flattened rows
    return replace(
        flow,
        sequence_ids=ids[:, None].expand(real.shape),
        real=real,
        items={key: rows(values) for key, values in flow.items.items()},
        places={key: flat[places] for key, places in flow.places.items()},
        spoken=rows(flow.spoken) & real,
        questions=None if flow.questions is None else rows(flow.questions),
    )


def step(flow: Pass) -> Pass:
    """The pass over one more token in each row: it sees every item of its conversation and fills no media."""
    return replace(
        flow,
        sequence_ids=flow.sequence_ids[:, -1:],
        real=flow.real[:, -1:],
        items={key: _latest(owners, flow.sequence_ids[:, -1]) for key, owners in flow.owners.items()},
        places={key: places[:0] for key, places in flow.places.items()},
        spoken=torch.zeros_like(flow.spoken[:, -1:]),
        questions=None if flow.questions is None else torch.full_like(flow.questions[:, -1:], -1),
    )


def _latest(owners: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int64[R, 1]: the last item of each row's conversation, also where no token follows its start; -1: it has none."""
    numbers = torch.arange(len(owners), device=owners.device)
    owned = torch.where(owners == rows[:, None], numbers, -1)
    return owned.amax(dim=1, keepdim=True) if len(owners) else torch.full_like(rows[:, None], -1)


def kept(flow: Pass, rows: torch.Tensor) -> Pass:
    """The pass of a step with these rows only; items keep their numbers."""
    numbers = torch.full((len(flow.sequence_ids),), -1, device=rows.device)
    numbers[rows] = torch.arange(len(rows), device=rows.device)

    def chosen(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value[rows] for key, value in values.items()}

    return replace(
        flow,
        sequence_ids=numbers[flow.sequence_ids[rows]],
        real=flow.real[rows],
        present=chosen(flow.present),
        items=chosen(flow.items),
        owners={key: numbers[owner] for key, owner in flow.owners.items()},
        sources=tuple(flow.sources[row] for row in rows.tolist()),
        spoken=flow.spoken[rows],
        questions=None if flow.questions is None else flow.questions[rows],
    )
