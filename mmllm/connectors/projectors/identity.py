"""The ``identity`` connector: features go into the LLM as they are; the baseline without anything that learns."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from mmllm.connectors.base import Connector
from mmllm.errors import MmllmError
from mmllm.types import Features


class IdentityConnector(Connector):
    """Features unchanged: only for an encoder (all its layers side by side) exactly as wide as the LLM."""

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if dim != llm_dim:
            raise MmllmError(
                f"connector identity needs equal widths, but the encoder gives {dim} and the LLM takes {llm_dim}; "
                "use mlp with depth: 1 for a linear map."
            )

    def tokens(self, grid: Sequence[int]) -> int:
        """As many as the encoder's."""
        return prod(grid)

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """float[N, T, llm_dim], the features themselves."""
        return features.concatenated()

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> IdentityConnector:
        """Of the LLM's width, whatever ``dim`` is."""
        return cls(dim=llm.dim, llm_dim=llm.dim)
