"""The ``gated_resampler`` connector: a gated MLP to the LLM's width, then latents that read what it gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2MLP, Idefics2PerceiverResampler

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import activation_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class GatedResamplerConnector(Projector):
    """The connector of Idefics2 (Laurencon et al. 2024, arXiv 2405.02246), transformers' own layers.

    Each token x becomes V(act(G x) * (U x)) in the LLM's width, ``mlp_width`` between (default: four times it). Then
    ``latents`` learned vectors pass ``depth`` blocks z += Attn(RMS z, [RMS x; RMS z]), z += MLP(RMS z), gated too, and
    a last RMSNorm. ``heads`` of ``head_dim`` ask, ``key_heads`` are asked, each by a group of them.
    """

    accepts_padding = True
    takes_class_tokens = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        latents: int = 64,
        depth: int = 3,
        heads: int = 16,
        head_dim: int = 96,
        key_heads: int = 4,
        mlp_width: int | None = None,
        activation: str = "silu",
        resampler_activation: str = "silu",
        eps: float = 1e-6,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value in {"latents": latents, "depth": depth, "heads": heads, "head_dim": head_dim}.items():
            if value < 1:
                raise MmllmError(f"connector gated_resampler {name}: {value} must be at least 1.")
        if key_heads < 1 or heads % key_heads:
            raise MmllmError(f"connector gated_resampler: key_heads ({key_heads}) must divide heads ({heads}).")
        for name in (activation, resampler_activation):
            activation_of(name)
        between = 4 * llm_dim if mlp_width is None else mlp_width
        self.n_latents = latents  # under ZeRO-3 a weight has no shape outside of a forward
        self.projection = Idefics2MLP(dim, between, llm_dim, activation)
        config = Idefics2PerceiverConfig(
            hidden_size=llm_dim,
            hidden_act=resampler_activation,
            rms_norm_eps=eps,
            resampler_n_latents=latents,
            resampler_depth=depth,
            resampler_n_heads=heads,
            resampler_head_dim=head_dim,
            num_key_value_heads=key_heads,
        )
        self.resampler = Idefics2PerceiverResampler(config)
        # not ones, as transformers starts them: equal latents would stay equal
        nn.init.normal_(self.resampler.latents)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One row of latents, whatever the grid: they are in no order of space or time."""
        return (1, self.n_latents)

    def forward(self, features: Features) -> Tensor:
        """Read features float[N, T, dim]: float[N, latents, llm_dim]; tokens that the mask excludes are not read."""
        found: Tensor = self.resampler(self.projection(features.concatenated()), features.mask)
        return found
