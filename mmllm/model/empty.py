"""A batch without samples, which a rank may get, as one that a model can read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mmllm.types import IGNORE_INDEX, Batch


def never_empty(batch: Batch) -> Batch:
    """The batch itself, or one token without label where a rank got no sample."""
    if batch.n_tokens:
        return batch
    one = batch.input_ids.new_zeros(1)
    bounds = torch.tensor([0, 1], dtype=torch.int32, device=one.device)
    row: dict[str, Any] = {"input_ids": one, "labels": one + IGNORE_INDEX, "sequence_ids": one}
    row |= {"position_ids": one.expand(len(batch.position_ids), 1), "media_ids": one - 1, "cu_seqlens": bounds}
    row |= {name: {} for name in ("media", "media_positions", "item_starts", "item_sequence")}
    row["user_turn"] = None if batch.user_turn is None else one - 1
    return replace(batch, **row, names=["(no sample)"], dataset_names=[""], segments=None, origin=None)
