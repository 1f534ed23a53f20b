"""Asks a connector for the tokens of N items that may differ in size; between an encoder's features and the splice."""

from __future__ import annotations

import torch

from mmllm.connectors.connector import Connector
from mmllm.types import Features, SampleError


def said(connector: Connector, features: Features, text: torch.Tensor | None) -> tuple[torch.Tensor, list[int]]:
    """float[M, D] of all items, item after item, and how many of the M tokens are of each.

    A connector that is not ``ragged`` is asked once for each grid that occurs, so it sees no padding.
    """
    grids = features.item_grids()
    if len(set(grids)) == 1:
        if connector.ragged or features.grids is None:
            tokens = connector(features, text)
        else:
            tokens = connector(features.only(torch.arange(len(grids)), grids[0]), text)
        return tokens.flatten(0, 1), [tokens.shape[1]] * len(tokens)
    counts = [connector.tokens(grid) for grid in grids]
    if connector.ragged:
        tokens = connector(features, text)
        return torch.cat([row[:count] for row, count in zip(tokens, counts, strict=True)]), counts
    rows: dict[int, torch.Tensor] = {}
    for grid in dict.fromkeys(grids):
        items = [number for number, one in enumerate(grids) if one == grid]
        tokens = connector(features.only(torch.tensor(items, device=features.mask.device), grid), text)
        rows |= dict(zip(items, tokens, strict=True))
    if connector.memory is not None:
        raise SampleError(
            f"connector {type(connector).__name__} reads its items inside the LLM and needs all of one size, but this "
            f"batch holds {', '.join(str(grid) for grid in dict.fromkeys(grids))}; give the encoder a fixed length"
        )
    return torch.cat([rows[number] for number in range(len(grids))]), counts
