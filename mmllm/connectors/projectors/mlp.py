"""The ``mlp`` connector: every patch becomes one token of the LLM, as in LLaVA-1.5."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp, norm_of
from mmllm.types import Features, Grid


class MlpConnector(Projector):
    """Each patch through W2 GELU(W1 X + b1) + b2 (LLaVA-1.5, Liu et al. 2023, arXiv 2310.03744).

    ``depth`` counts the linear layers; 1 is LLaVA's first, linear projector. PyTorch's default init. ``norm`` puts a
    LayerNorm (``rms``: an RMSNorm; ``calibrated``: set from items before the first step) with ``eps`` before them, as
    in ``pool``: for encoders with large hidden states; LLaVA has none. ``width``: channels between the layers (default:
    the LLM's). ``bias`` and ``activation`` (as transformers calls it) are for projectors of published models.
    """

    takes_class_tokens = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        depth: int = 2,
        norm: bool | str = False,
        eps: float = 1e-5,
        width: int | None = None,
        bias: bool = True,
        activation: str = "gelu",
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.norm = norm_of(norm, dim, eps)
        self.mlp = mlp(dim, llm_dim, depth, activation, width, bias)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the encoder: 24 x 24 patches give 576 tokens."""
        return tuple(grid)

    def forward(self, features: Features) -> Tensor:
        """Project features float[N, T, dim] of any grid: float[N, T, llm_dim]."""
        return self.mlp(self.norm(features.concatenated()))
