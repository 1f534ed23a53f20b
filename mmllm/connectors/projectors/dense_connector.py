"""The ``dense_connector``: features of many encoder layers beside the last one's, then an MLP (Dense Connector)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from mmllm.connectors.base import Connector, mlp
from mmllm.errors import MmllmError
from mmllm.types import Features


class DenseConnector(Connector):
    """Multi-layer features before the projector (Yao et al. 2024, arXiv 2405.13800).

    X is the last layer listed under the encoder's ``layers``, L their number, D the encoder's width. ``mode``:

    - ``dci``: [X ; mean of group 1 ; mean of group 2 ; ...] on the width, where the layers listed (X too) are cut into
      ``groups`` equal runs: (1 + groups) * D. The paper's CLIP-L/24: ``layers: [0, ..., 23]``, two groups of twelve.
    - ``sci``: [X ; the other layers] on the width: L * D. The paper's: ``layers: [7, 15, 23]``.
    - ``sti``: the tokens of X, then those of each other layer averaged ``pool`` at a time along the raster: width D.
      The paper's: ``layers: [7, 15, 23]``, 576 + 2 * 72 tokens.

    Nothing but the MLP (``depth`` linear layers, GELU between) learns. ``norm`` (not in the paper) first brings each
    layer to mean 0 and variance 1 per token, for encoders whose layers are of very different size.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        layers: int,
        mode: Literal["dci", "sci", "sti"] = "dci",
        groups: int = 2,
        pool: int = 8,
        depth: int = 2,
        norm: bool = False,
    ) -> None:
        """Set up.

        Args:
            dim: width of all layers side by side, L * D.
            llm_dim: width of the LLM.
            layers: L, how many layers the encoder's ``layers`` lists.
            mode: see above.
            groups: runs of layers to average, for ``dci``.
            pool: tokens averaged into one, for ``sti``.
            depth: linear layers of the MLP.
            norm: whether to norm each layer first; see above.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if layers < 1 or dim % layers:
            raise MmllmError(f"connector dense_connector layers: {layers} layers cannot make up a width of {dim}.")
        if mode == "dci" and (groups < 1 or layers % groups):
            raise MmllmError(f"connector dense_connector groups: {layers} layers do not make {groups} equal runs.")
        if mode != "dci" and layers < 2:
            raise MmllmError(f"connector dense_connector mode: {mode} needs at least 2 encoder layers, not {layers}.")
        if mode == "sti" and pool < 1:
            raise MmllmError(f"connector dense_connector pool: {pool} must be at least 1.")
        self.n_layers, self.mode, self.groups, self.pool, self.norm = layers, mode, groups, pool, norm
        widths = {"dci": 1 + groups, "sci": layers, "sti": 1}
        if mode not in widths:
            raise MmllmError(f"connector dense_connector mode: {mode!r} is unknown; known: {', '.join(widths)}.")
        self.mlp = mlp(dim // layers * widths[mode], llm_dim, depth)

    def tokens(self, grid: Sequence[int]) -> int:
        """T of the encoder, and T / pool more for each layer but the last in ``sti``; raises where that is broken."""
        tokens = prod(grid)
        if self.mode != "sti":
            return tokens
        if tokens % self.pool:
            raise MmllmError(
                f"connector dense_connector pool: {self.pool} must divide the encoder's {tokens} tokens, or the last "
                "ones would be lost."
            )
        return tokens + (self.n_layers - 1) * (tokens // self.pool)

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """float[N, T, L * D] -> float[N, tokens, llm_dim]."""
        return self.mlp(self.dense(features))

    def dense(self, features: Features) -> Tensor:
        """What enters the MLP: float[N, tokens, width]."""
        layers = listed(normed(features) if self.norm else features, self.n_layers, "dense_connector")
        *others, last = layers
        if self.mode == "dci":
            runs = torch.stack(layers).unflatten(0, (self.groups, -1)).mean(dim=1)
            return torch.cat([last, *runs], dim=-1)
        if self.mode == "sci":
            return torch.cat([last, *others], dim=-1)
        self.tokens(features.grid)
        pooled = [functional.avg_pool1d(layer.transpose(1, 2), self.pool).transpose(1, 2) for layer in others]
        return torch.cat([last, *pooled], dim=1)

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> DenseConnector:
        """One layer, which is then a group of its own."""
        return cls(dim=dim, llm_dim=llm.dim, layers=1, groups=1)


def normed(features: Features) -> Features:
    """The same with mean 0 and variance 1 over the width of each layer, per token; nothing learned."""
    layers = {index: functional.layer_norm(layer, layer.shape[-1:]) for index, layer in features.layers.items()}
    return replace(features, layers=layers)


def listed(features: Features, n_layers: int, name: str) -> list[Tensor]:
    """float[N, T, D] of each of the encoder's layers, in the order listed; raises where there is another number."""
    layers = list(features.layers.values())
    if len(layers) != n_layers:
        raise MmllmError(
            f"connector {name} layers: {n_layers}, but the encoder gives {len(layers)} ({list(features.layers)}); "
            "write as many as its own `layers` lists."
        )
    return layers
