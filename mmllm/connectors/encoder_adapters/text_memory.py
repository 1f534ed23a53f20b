"""Dolphin: a document becomes a fixed number of tokens of the LLM, whatever its length (arXiv 2408.15518).

Works inside a ``document`` encoder (memory tokens behind the text) and maps what leaves it into the LLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm import hooks
from mmllm.connectors.base import Connector, Handle, mlp
from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.errors import MmllmError
from mmllm.types import Features


class TextMemoryConnector(Connector):
    """``slots`` learned tokens behind the document; their last states pass a norm and an MLP (Chen et al. 2024).

    ``adapter`` is the width of bottlenecks beside the small model's MLPs (0: none), which learn to write into the
    memory; the paper trains the whole small model instead: ``train: {encoders.document: ...}``. The restoration stage
    is data: a question for the document itself. ``compress: mean`` appends nothing and averages the document's own last
    states over ``slots`` equal parts: the control of equal length.
    """

    ragged = True
    tiny_grid = (6,)

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        slots: int = 16,
        compress: Literal["memory", "mean"] = "memory",
        adapter: int = 0,
        depth: int = 2,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if slots < 1 or adapter < 0 or compress not in ("memory", "mean"):
            raise MmllmError(
                f"text_memory: slots {slots} must be at least 1, adapter {adapter} at least 0, compress {compress!r} "
                "memory or mean."
            )
        self.slots, self.compress, self.adapter = slots, compress, adapter
        self.tail: nn.Embedding | None = None
        self.adapters = nn.ModuleList()
        self.norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, llm_dim, depth)

    def tokens(self, grid: Sequence[int]) -> int:
        """``slots``, whatever the length."""
        return self.slots

    def adapt(self, encoders: Mapping[str, Any]) -> Handle:
        """Append the memory tokens in one ``document`` encoder, and put bottlenecks beside its MLPs.

        Raises:
            MmllmError: another kind of encoder, several, or one without positions for the memory.
        """
        if len(encoders) != 1 or next(iter(encoders.values())).modality != "document":
            raise MmllmError(f"text_memory works inside one encoder of documents, not in {', '.join(encoders)}.")
        encoder = next(iter(encoders.values()))
        handles: list[hooks.Handle] = []
        if self.compress == "memory":
            self.tail = nn.Embedding(self.slots, encoder.embed_dim)
            nn.init.normal_(self.tail.weight, std=0.02)
            handles.append(encoder.receive(self._memory, self.slots))
        inside = encoder.inside()
        for block in range(inside.n_blocks if self.adapter else 0):
            self.adapters.append(Bottleneck(inside.dim, self.adapter, "gelu"))
            handles.append(inside.after_mlp(block, self._adapted(block)))
        return hooks.all_of(handles)

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """``facts["memory"]`` float[N, slots, dim], or the document's tokens -> float[N, slots, llm_dim]."""
        states = self._means(features) if self.compress == "mean" else features.facts["memory"]
        return self.mlp(self.norm(states.to(self.norm.weight.dtype)))

    def _memory(self) -> Tensor:
        """The learned tokens, float[slots, embed_dim]."""
        assert self.tail is not None
        return self.tail(torch.arange(self.slots, device=self.tail.weight.device))

    def _means(self, features: Features) -> Tensor:
        """Means over ``slots`` equal parts of each document, float[N, slots, dim]; shorter ones repeat tokens."""
        rows = zip(features.concatenated(), features.item_grids(), strict=True)
        parts = [functional.adaptive_avg_pool1d(row[: grid[0]].T[None], self.slots)[0].T for row, grid in rows]
        return torch.stack(parts)

    def _adapted(self, block: int) -> hooks.ChangeOutput:
        def change(given: Tensor, output: Tensor) -> Tensor:
            return output + self.adapters[block](given).to(output.dtype)

        return change

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> TextMemoryConnector:
        """Three slots."""
        return cls(dim=dim, llm_dim=llm.dim, slots=3, adapter=4)
