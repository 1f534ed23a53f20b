"""Puts what connectors say into the row of text embeddings, after comparing the counts."""

from __future__ import annotations

import torch

from mmllm.types import Batch, SampleError


def splice(embeds: torch.Tensor, tokens: torch.Tensor, batch: Batch, key: str) -> torch.Tensor:
    """The row with the places of ``key`` filled: float[S, D].

    ``embeds`` float[S, D]; ``tokens`` float[N, T, D], T for each of the N items of ``key``, raster order.

    Raises:
        SampleError: an item has another number of places than the connector gives tokens; it names the sample.
    """
    places = batch.places.get(key)
    if places is None:
        places = batch.media_ids.new_empty(0)
    _compare_counts(places, tokens, batch, key)
    return embeds.index_copy(0, places, tokens.flatten(0, 1).to(embeds.dtype))


def _compare_counts(places: torch.Tensor, tokens: torch.Tensor, batch: Batch, key: str) -> None:
    items, expected = tokens.shape[:2]
    if expected == 0 and len(places) == 0:
        return
    owner = batch.media_ids[places]
    if len(places) == items * expected and bool((owner.view(items, expected) == _numbers(items, owner)).all()):
        return
    counts = torch.bincount(owner.clamp(min=0), minlength=items).tolist()
    item = next((i for i, count in enumerate(counts) if count != expected), 0)
    shown = places[owner == item]
    name = batch.names[int(batch.sequence_ids[shown[0]])] if len(shown) else f"one of {', '.join(batch.names)}"
    raise SampleError(
        f"{name}: item {item} of {key!r} in this batch has {counts[item]} places in the text but its connector gives "
        f"{expected} tokens for each of {items} items; expand <{key}> by the assembly's own media_tokens"
    )


def _numbers(items: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(items, device=like.device)[:, None]
