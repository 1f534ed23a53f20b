"""The ``dense_connector``: features of many encoder layers beside the last one's, then an MLP (Dense Connector)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.encoder_layers import listed, normed
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class DenseConnector(Projector):
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

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the encoder; in ``sti`` one row: T tokens, and T / pool more for each layer but the last.

        Raises:
            MmllmError: ``sti`` with a ``pool`` that does not divide T.
        """
        if self.mode != "sti":
            return tuple(grid)
        tokens = prod(grid)
        if tokens % self.pool:
            raise MmllmError(
                f"connector dense_connector pool: {self.pool} must divide the encoder's {tokens} tokens, or the last "
                "ones would be lost."
            )
        return (1, tokens + (self.n_layers - 1) * (tokens // self.pool))

    def forward(self, features: Features) -> Tensor:
        """Project features float[N, T, L * D]: float[N, n_tokens, llm_dim]."""
        return self.mlp(self.dense(features))

    def dense(self, features: Features) -> Tensor:
        """Input of the MLP: float[N, n_tokens, width]."""
        layers = listed(normed(features) if self.norm else features, self.n_layers, "dense_connector")
        *others, last = layers
        if self.mode == "dci":
            runs = torch.stack(layers).unflatten(0, (self.groups, -1)).mean(dim=1)
            return torch.cat([last, *runs], dim=-1)
        if self.mode == "sci":
            return torch.cat([last, *others], dim=-1)
        self.out_grid(features.grid)  # refuses a pool that does not divide T, as torch would drop the rest
        pooled = [functional.avg_pool1d(layer.transpose(1, 2), self.pool).transpose(1, 2) for layer in others]
        return torch.cat([last, *pooled], dim=1)
