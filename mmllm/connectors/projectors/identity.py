"""The ``identity`` connector: features go into the LLM as they are; the baseline without anything that learns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmllm.connectors.base import Projector
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class IdentityConnector(Projector):
    """Features unchanged: only for an encoder (all its layers side by side) exactly as wide as the LLM."""

    takes_class_tokens = True

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if dim != llm_dim:
            raise MmllmError(
                f"connector identity needs equal widths, but the encoder gives {dim} and the LLM takes {llm_dim}; "
                "use mlp with depth: 1 for a linear map."
            )

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the encoder."""
        return tuple(grid)

    def forward(self, features: Features) -> Tensor:
        """Hand on the features themselves, float[N, T, llm_dim]."""
        return features.concatenated()
