"""Projects N items that may differ in size into the LLM's width; between encoders' features and the merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mmllm.connectors.base import DeepFusion, Projector
from mmllm.errors import SampleError
from mmllm.hooks import ForwardContext
from mmllm.hooks.shards import calls_of_all
from mmllm.types import Cut, Features, Grid


def project(
    connector: Projector | DeepFusion, features: Sequence[Features], ctx: ForwardContext
) -> tuple[torch.Tensor, list[int]]:
    """float[M, D] of all items, item after item, and how many of the M tokens are of each.

    ``features``: of the same N items, from each of the connector's encoders. A connector that does not
    ``accepts_padding`` is called once for each grid that occurs, so it sees no padding. What it remembers of the items
    goes into ``ctx.media``. With a ``stitch`` its tokens of tiles are put together behind it, and items that
    are not cut get their end. An item of several pictures of unlike shape is projected picture by picture.
    """
    if "pictures" in features[0].extras:
        pictures, sizes = _apart(features[0])
        tokens, each = _projected(connector, [pictures], ctx)
        return tokens, [sum(counts) for counts in _split(each, sizes)]
    stitch = None if isinstance(connector, DeepFusion) else connector.stitch
    if stitch is None:
        return _projected(connector, features, ctx)
    if all("cut" not in one.extras for one in features):
        return stitch.ended(*_projected(connector, features, ctx))
    cuts = [Cut.of(values) for values in _cuts(features).tolist()]
    tokens, _ = _projected(connector, features, ctx)
    return stitch(tokens, [connector.out_grid(*grids) for grids in _item_grids(features)], cuts)


def _apart(features: Features) -> tuple[Features, list[int]]:
    """Items of several pictures -> all pictures, each as an item, and how many of them each item has."""
    found = features.extras["pictures"].tolist()
    grids: list[list[Grid]] = [[(rows, cols) for rows, cols in item if rows >= 0] for item in found]
    lengths = [[prod(grid) for grid in item] for item in grids]
    flat = [length for item in lengths for length in item]
    layers = {
        index: pad_sequence(
            [one for row, item in zip(layer, lengths, strict=True) for one in row[: sum(item)].split(item)],
            batch_first=True,
        )
        for index, layer in features.layers.items()
    }
    real = torch.arange(max(flat)) < torch.tensor(flat)[:, None]
    every = [grid for item in grids for grid in item]
    sizes = [len(item) for item in grids]
    mask = real.to(features.mask.device, non_blocking=True)
    return Features(layers, mask, max(every, key=prod), tuple(every) if len(set(every)) > 1 else None), sizes


def _split(counts: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """``counts`` in groups of these sizes."""
    ends = list(accumulate(sizes))
    return [counts[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _cuts(features: Sequence[Features]) -> torch.Tensor:
    """int64[N, 5], how each item is cut."""
    return next(one.extras["cut"] for one in features if "cut" in one.extras)


def _projected(
    connector: Projector | DeepFusion, features: Sequence[Features], ctx: ForwardContext
) -> tuple[torch.Tensor, list[int]]:
    """As :func:`project`, before any stitching."""
    features = [_cast(one, connector) for one in features]
    if connector.accepts_padding:
        return _padded(connector, features, ctx)
    groups = _groups(features)
    # before the first call: a rank that calls waits for the others
    more = calls_of_all(len(groups), connector) - len(groups)
    if isinstance(connector, DeepFusion) and len(groups) > 1 and not connector.joins_sizes:
        raise SampleError(
            f"connector {type(connector).__name__} reads its items inside the LLM and needs all of one size, but this "
            f"batch holds {', '.join(str(group[0].grid) for _, group in groups)}; give the encoder a fixed length"
        )
    answers = [_call(connector, group, ctx) for _, group in groups]
    # calls that only other ranks need; their zero is added to an answer, so that their backward passes run here too
    for _ in range(more):
        (tokens, remembered), idle = answers[-1], _call(connector, groups[-1][1], ctx)
        zeros = [tensor.sum() * 0.0 for tensor in (idle[0], *_tensors(idle[1]))]
        answers[-1] = tokens + sum(zeros), remembered
    if len(groups) == 1:
        tokens, remembered = answers[0]
        _keep(connector, remembered, ctx)
        return tokens.flatten(0, 1), [tokens.shape[1]] * len(tokens)
    rows: dict[int, torch.Tensor] = {}
    parts: dict[int, Any] = {}
    for (items, _), (tokens, remembered) in zip(groups, answers, strict=True):
        rows |= dict(zip(items, tokens, strict=True))
        parts |= {number: _part(remembered, place) for place, number in enumerate(items)}
    ordered = [rows[number] for number in range(len(rows))]
    if isinstance(connector, DeepFusion):
        _keep(connector, connector.joined([parts[number] for number in range(len(rows))]), ctx)
    return torch.cat(ordered), [len(row) for row in ordered]


def _call(
    connector: Projector | DeepFusion, features: Sequence[Features], ctx: ForwardContext
) -> tuple[torch.Tensor, Any]:
    """Tokens float[N, T, D], and what the connector remembers of the items."""
    words: dict[str, Any] = {"ctx": ctx} if connector.reads_text else {}
    answer = connector(*features, **words)
    return answer if isinstance(connector, DeepFusion) else (answer, None)


def _keep(connector: Projector | DeepFusion, remembered: Any, ctx: ForwardContext) -> None:
    """Let layers inside the LLM find what a connector remembers."""
    if remembered is not None:
        ctx.media[connector.key] = remembered


def _part(remembered: Any, place: int) -> Any:
    """What is remembered of one of several items: tensors have them along their first axis, tuples hold such."""
    if isinstance(remembered, tuple):
        return tuple(_part(one, place) for one in remembered)
    return None if remembered is None else remembered[place : place + 1]


def _tensors(remembered: Any) -> list[torch.Tensor]:
    if isinstance(remembered, tuple):
        return [tensor for one in remembered for tensor in _tensors(one)]
    return [remembered] if isinstance(remembered, torch.Tensor) else []


def _padded(
    connector: Projector | DeepFusion, features: Sequence[Features], ctx: ForwardContext
) -> tuple[torch.Tensor, list[int]]:
    tokens, remembered = _call(connector, features, ctx)
    _keep(connector, remembered, ctx)
    if all(one.grids is None for one in features):
        return tokens.flatten(0, 1), [tokens.shape[1]] * len(tokens)
    counts = [connector.n_tokens(*grids) for grids in _item_grids(features)]
    return torch.cat([row[:count] for row, count in zip(tokens, counts, strict=True)]), counts


def _item_grids(features: Sequence[Features]) -> list[tuple[Grid, ...]]:
    """Grids of each of the N items, one per encoder."""
    return list(zip(*(one.item_grids() for one in features), strict=True))


def _groups(features: Sequence[Features]) -> list[tuple[list[int], list[Features]]]:
    """(numbers of the items, their features without padding) for each combination of grids that occurs."""
    if all(one.grids is None for one in features):
        return [(list(range(len(features[0].mask))), list(features))]
    every = _item_grids(features)
    found = []
    for grids in dict.fromkeys(every):
        items = [number for number, one in enumerate(every) if one == grids]
        chosen = torch.tensor(items)
        found.append((items, [one.only(chosen, grid) for one, grid in zip(features, grids, strict=True)]))
    return found


def _cast(features: Features, connector: nn.Module) -> Features:
    """Features in the connector's dtype."""
    weight = next(connector.parameters(), None)
    if weight is None:
        return features
    return replace(features, layers={index: layer.to(weight.dtype) for index, layer in features.layers.items()})
