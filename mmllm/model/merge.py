"""Puts projected tokens into the row of text embeddings, after comparing the counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmllm.errors import SampleError
from mmllm.types import Batch


def merge_embeddings(
    embeds: torch.Tensor, tokens: torch.Tensor, counts: Sequence[int], batch: Batch, key: str
) -> torch.Tensor:
    """The row with the places of ``key`` filled: float[S, D].

    ``embeds`` float[S, D]; ``tokens`` float[M, D], item after item in raster order; ``counts``: how many of the M
    tokens each of the N items has.

    Raises:
        SampleError: an item has another number of places than the connector gives tokens; it names the sample.
    """
    places = batch.media_positions.get(key)
    if places is None:
        places = batch.media_ids.new_empty(0)
    here = batch.host
    compare_counts(here.media_positions.get(key, here.media_ids.new_empty(0)), counts, here, key)
    # out of place: the context keeps the text's embeddings as they were, for connectors that read the text
    return embeds.index_copy(0, places, tokens.to(embeds.dtype))


def compare_counts(places: torch.Tensor, counts: Sequence[int], batch: Batch, key: str) -> None:
    """Raise SampleError, which names the sample, where an item's places are not as many as the tokens it got."""
    owner = batch.media_ids[places]
    expected = torch.tensor(counts, device=owner.device)
    numbers = torch.arange(len(counts), device=owner.device).repeat_interleave(expected)
    if torch.equal(owner, numbers):
        return
    # clamp: a place that no item of this batch owns has -1, which bincount refuses
    found = torch.bincount(owner.clamp(min=0), minlength=len(counts)).tolist()
    item = next((i for i, count in enumerate(counts) if count != found[i]), 0)
    shown = places[owner == item]
    name = batch.names[int(batch.sequence_ids[shown[0]])] if len(shown) else f"one of {', '.join(batch.names)}"
    raise SampleError(
        f"{name}: item {item} of {key!r} in this batch has {found[item]} places in the text but its connector gives "
        f"{counts[item]} tokens for it, item {item + 1} of {len(counts)}; expand <{key}> by the model's own "
        "inputs[key].n_tokens"
    )
