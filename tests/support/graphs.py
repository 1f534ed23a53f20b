"""Small graphs with random node states for tests of the graph connectors, and a small ``graph_adapter``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.types import Features

DIM, LLM = 6, 10
GNNS = ("sage", "gat", "gin", "none")
PAIRS = [(0, 1), (0, 2), (1, 3), (3, 4), (2, 4), (5, 1)]
"""Of a graph with six nodes; the connectors get both directions."""


def features_of(pairs: list[list[tuple[int, int]]], sizes: list[int], targets: list[int], seed: int = 0) -> Features:
    """N graphs with random states; both directions of each pair."""
    states = torch.randn(len(sizes), max(sizes), DIM, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    edges = torch.full((len(sizes), 2, 2 * max(map(len, pairs))), -1)
    for number, own in enumerate(pairs):
        for place, (a, b) in enumerate([*own, *((b, a) for a, b in own)]):
            edges[number, :, place] = torch.tensor([a, b])
    grids = None if len(set(sizes)) == 1 else tuple((size,) for size in sizes)
    facts = {"edges": edges, "target": torch.tensor(targets)}
    return Features({-1: states * mask[..., None]}, mask, (max(sizes),), grids, facts)


def one(target: int = 0) -> Features:
    return features_of([PAIRS], [6], [target])


def adapter(**words: Any) -> GraphAdapterConnector:
    torch.manual_seed(1)
    words = {"at": "input", "hidden": 8, "heads": 2, **words}
    return GraphAdapterConnector(dim=DIM, llm_dim=LLM, **words)


def adjacency(loops: bool) -> Tensor:
    """float[6, 6], 1 where the column sends to the row."""
    links = torch.zeros(6, 6)
    for a, b in PAIRS:
        links[a, b] = links[b, a] = 1
    return links + torch.eye(6) if loops else links
