"""Dolphin: a document becomes a fixed number of tokens of the LLM, whatever its length (arXiv 2408.15518).

Works inside a ``document`` encoder (memory tokens behind the text) and maps what leaves it into the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import EncoderAdapter, Projector
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder
from mmllm.types import Features, Grid


class AppendingEncoder(AdaptableEncoder, Protocol):
    """Encoder of documents, as far as it is needed here."""

    @property
    def embed_dim(self) -> int:
        """Width of the tokens that enter the model."""
        ...

    def receive(self, tail: Callable[[EncoderContext], Tensor], n: int) -> Handle:
        """Append ``tail(ctx)`` float[n, embed_dim] behind each document."""
        ...


class TextMemoryConnector(Projector, EncoderAdapter):
    """Memory tokens of Dolphin (Chen et al. 2024, arXiv 2408.15518): a long text as a few learned tokens.

    ``slots`` learned tokens behind the document; their last states pass a norm and an MLP.

    ``adapter`` is the width of bottlenecks beside the small model's MLPs (0: none), which learn to write into the
    memory; the paper trains the whole small model instead: ``train: {encoders.document: ...}``. The restoration stage
    is data: a question for the document itself. ``compress: mean`` appends nothing and averages the document's own last
    states over ``slots`` equal parts: the control of equal length.
    """

    accepts_padding = True

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
        self._place: str | None = None
        self.tail: nn.Embedding | None = None
        self.adapters = nn.ModuleList()
        self.norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, llm_dim, depth)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """(1, ``slots``), whatever the length."""
        return 1, self.slots

    def attach(self, encoder: AdaptableEncoder, key: str) -> Handle:
        """Append the memory tokens in one ``document`` encoder, and put bottlenecks beside its MLPs.

        Raises:
            MmllmError: another kind of encoder, several, or one without positions for the memory.
        """
        if encoder.modality != "document" or self._place not in (None, key):
            places = key if self._place is None else f"{self._place}, {key}"
            raise MmllmError(f"text_memory works inside one encoder of documents, not in {places}.")
        self._place = key
        handles: list[Handle] = []
        if self.compress == "memory":
            documents = cast(AppendingEncoder, encoder)
            if self.tail is None:
                # a layer, not a bare parameter: ZeRO-3 gathers weights where their module is called
                self.tail = nn.Embedding(self.slots, documents.embed_dim)
                nn.init.normal_(self.tail.weight, std=0.02)
            handles.append(documents.receive(self._memory, self.slots))
        points = encoder.hook_points()
        for block in range(points.n_blocks if self.adapter else 0):
            # attached a second time, it goes on with the weights it has
            if block == len(self.adapters):
                self.adapters.append(Bottleneck(points.dim, self.adapter, "gelu"))
            handles.append(points.after_mlp(block, self._adapted(block)))
        return Handle.of(handles)

    def forward(self, features: Features) -> Tensor:
        """``extras["memory"]`` float[N, slots, dim], or the document's tokens -> float[N, slots, llm_dim]."""
        states = self._means(features) if self.compress == "mean" else features.extras["memory"]
        return self.mlp(self.norm(states.to(self.norm.weight.dtype)))

    def _memory(self, _: EncoderContext) -> Tensor:
        """The learned tokens, float[slots, embed_dim]."""
        assert self.tail is not None
        return self.tail(torch.arange(self.slots, device=self.tail.weight.device))

    def _means(self, features: Features) -> Tensor:
        """Means over ``slots`` equal parts of each document, float[N, slots, dim]; shorter ones repeat tokens."""
        rows = zip(features.concatenated(), features.item_grids(), strict=True)
        parts = [functional.adaptive_avg_pool1d(row[: grid[0]].T[None], self.slots)[0].T for row, grid in rows]
        return torch.stack(parts)

    def _adapted(self, block: int) -> ChangeOutput:
        def change(_: EncoderContext, given: Tensor, output: Tensor) -> Tensor:
            return output + self.adapters[block](given).to(output.dtype)

        return change
