"""Asks a connector for the tokens of N items that may differ in size; between an encoder's features and the splice."""

from __future__ import annotations

import torch
from torch import distributed, nn

from mmllm.connectors.base import Connector
from mmllm.errors import SampleError
from mmllm.types import Features


def project(connector: Connector, features: Features, text: torch.Tensor | None) -> tuple[torch.Tensor, list[int]]:
    """float[M, D] of all items, item after item, and how many of the M tokens are of each.

    A connector that is not ``ragged`` is asked once for each grid that occurs, so it sees no padding.
    """
    if connector.ragged:
        return _ragged(connector, features, text)
    groups = _groups(features)
    more = _calls(len(groups), connector) - len(groups)  # before the first call: a rank that calls waits for the others
    answers = [connector(group, text) for _, group in groups]
    for _ in range(more):
        answers[-1] = answers[-1] + connector(groups[-1][1], text) * 0.0
    if connector.memory is not None and len(groups) > 1:
        raise SampleError(
            f"connector {type(connector).__name__} reads its items inside the LLM and needs all of one size, but this "
            f"batch holds {', '.join(str(group.grid) for _, group in groups)}; give the encoder a fixed length"
        )
    if len(groups) == 1:
        return answers[0].flatten(0, 1), [answers[0].shape[1]] * len(answers[0])
    rows: dict[int, torch.Tensor] = {}
    for (items, _), answer in zip(groups, answers, strict=True):
        rows |= dict(zip(items, answer, strict=True))
    ordered = [rows[number] for number in range(len(rows))]
    return torch.cat(ordered), [len(row) for row in ordered]


def _ragged(connector: Connector, features: Features, text: torch.Tensor | None) -> tuple[torch.Tensor, list[int]]:
    tokens = connector(features, text)
    if features.grids is None:
        return tokens.flatten(0, 1), [tokens.shape[1]] * len(tokens)
    counts = [connector.tokens(grid) for grid in features.grids]
    return torch.cat([row[:count] for row, count in zip(tokens, counts, strict=True)]), counts


def _groups(features: Features) -> list[tuple[list[int], Features]]:
    """(numbers of the items, their features without padding) for each grid that occurs."""
    if features.grids is None:
        return [(list(range(len(features.mask))), features)]
    found = []
    for grid in dict.fromkeys(features.grids):
        items = [number for number, one in enumerate(features.grids) if one == grid]
        found.append((items, features.only(torch.tensor(items, device=features.mask.device), grid)))
    return found


def _calls(n: int, module: nn.Module) -> int:
    """How often every rank calls the module: ZeRO-3 gathers its weights in each call, which all ranks do together."""
    weight = next(module.parameters(), None)
    # ZeRO-3 marks what it partitions with `ds_id`
    if weight is None or not hasattr(weight, "ds_id") or not distributed.is_initialized():
        return n
    most = torch.tensor(n, device=weight.device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)
