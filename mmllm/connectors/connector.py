"""The base of every connector: what learns. Between an encoder and the LLM's input, or (``attach``) inside the LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmllm.types import Features, MmllmError


class Handle(Protocol):
    """What ``attach`` returns: takes the connector out of the LLM again, bit for bit."""

    def remove(self) -> None:
        """Restore the LLM as it was before ``attach``."""
        ...


class Connector(nn.Module):
    """Maps features to tokens of the LLM, all in raster order.

    ``dim`` is the width it receives (encoder width x number of layers), ``llm_dim`` the LLM's. A connector that works
    inside the LLM takes no ``dim``, gives no tokens and overrides ``attach``.
    """

    dim: int
    llm_dim: int

    def __init__(self, *, llm_dim: int, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.llm_dim = llm_dim
        self.when: tuple[str, ...] | None = None
        """Encoder keys: inside the LLM, work only in conversations with media of one of them. None: always."""
        self.active: Tensor | None = None
        """bool[1, S, 1] (packed) or bool[B, 1, 1] where the next pass of the LLM is to be changed. None: everywhere."""

    def route(self, present: Mapping[str, Tensor], sequence_ids: Tensor | None) -> None:
        """Set ``active`` for the next pass of the LLM, and for its recomputation in the backward pass.

        ``present``: encoder key -> bool[B], whether a conversation has media of it. ``sequence_ids`` int64[S] of a
        packed row; None where the B conversations are rows of their own.
        """
        if self.when is None:
            return
        chosen = torch.stack([present[key] for key in self.when]).any(dim=0)
        self.active = chosen[:, None, None] if sequence_ids is None else chosen[sequence_ids][None, :, None]

    def tokens(self, grid: Sequence[int]) -> int:
        """Places that one item of this grid takes in the LLM's sequence, known before any forward; 0 inside the LLM."""
        return 0

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """Features of N items -> float[N, tokens(grid), llm_dim]; ``text`` is for connectors that read the question."""
        raise NotImplementedError(f"{type(self).__name__} works inside the LLM")

    def attach(self, llm: Any) -> Handle | None:
        """Put what works inside the LLM into this instance (never its class); default: nothing."""
        return None

    def extra_loss(self) -> Tensor | None:
        """A scalar added to the loss of the last forward (load balance and the like); default: none."""
        return None

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> Connector:
        """A small one for tests: features of width ``dim`` on a 4 x 4 grid, an LLM of width ``llm.dim``."""
        return cls(dim=dim, llm_dim=llm.dim)


def perceptron(dim: int, llm_dim: int, depth: int, activation: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """``depth`` linear layers with an activation between: Linear(dim, llm_dim), then Linear(llm_dim, llm_dim)."""
    if depth < 1:
        raise MmllmError(f"depth: {depth} must be at least 1 (number of linear layers).")
    layers: list[nn.Module] = [nn.Linear(dim, llm_dim)]
    for _ in range(depth - 1):
        layers += [activation(), nn.Linear(llm_dim, llm_dim)]
    return nn.Sequential(*layers)


def plane(grid: Sequence[int], name: str) -> tuple[int, int, int]:
    """(maps, rows, cols) of a grid (..., rows, cols): time or tiles in front are maps of their own."""
    if len(grid) < 2:
        raise MmllmError(f"connector {name} needs a grid of rows and columns; this encoder gives {tuple(grid)}.")
    return prod(grid[:-2]), grid[-2], grid[-1]


def two(values: Sequence[int], what: str) -> tuple[int, int]:
    """(rows, cols) of a recipe's ``[rows, cols]``, both at least 1."""
    if len(values) != 2 or min(values) < 1:
        raise MmllmError(f"{what}: {list(values)} must be [rows, cols], both at least 1.")
    return values[0], values[1]
