"""Tiny projectors."""

from __future__ import annotations

import torch
from torch import Tensor

from mmllm.connectors.projectors.c_abstractor import CAbstractorConnector
from mmllm.connectors.projectors.concat import ConcatConnector
from mmllm.connectors.projectors.dense_connector import DenseConnector
from mmllm.connectors.projectors.gated_resampler import GatedResamplerConnector
from mmllm.connectors.projectors.graph_tokens import GraphTokensConnector
from mmllm.connectors.projectors.grid_resampler import GridResamplerConnector
from mmllm.connectors.projectors.identity import IdentityConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.mova.mova import MovaConnector
from mmllm.connectors.projectors.patch_merger import PatchMergerConnector
from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.projectors.qformer import QFormerConnector
from mmllm.connectors.projectors.resampler import ResamplerConnector
from mmllm.connectors.projectors.temporal_aligner.temporal_aligner import TemporalAlignerConnector
from mmllm.connectors.projectors.temporal_conv import TemporalConvConnector
from mmllm.connectors.projectors.texthawk.texthawk import TextHawkConnector
from mmllm.connectors.projectors.window_qformer import WindowQFormerConnector
from mmllm.connectors.projectors.window_resampler import WindowResamplerConnector
from mmllm.testing.tiny.record import LLM, Tiny


def c_abstractor(dim: int, llm: LLM) -> CAbstractorConnector:
    """4 x 4 patches to 2 x 2 tokens, one block on each side, 16 channels."""
    return CAbstractorConnector(dim=dim, llm_dim=llm.dim, source_grid=(4, 4), grid=(2, 2), depth=1, width=16)


def concat(dim: int, llm: LLM) -> ConcatConnector:
    """Any number of encoders whose layers are ``dim`` wide together, each layer normed."""
    return ConcatConnector(dim=dim, llm_dim=llm.dim, norm=True)


def dense_connector(dim: int, llm: LLM) -> DenseConnector:
    """One layer, which is then a group of its own."""
    return DenseConnector(dim=dim, llm_dim=llm.dim, layers=1, groups=1)


def gated_resampler(dim: int, llm: LLM) -> GatedResamplerConnector:
    """Three latents, two blocks, two heads that share a key."""
    return GatedResamplerConnector(
        dim=dim, llm_dim=llm.dim, latents=3, depth=2, heads=2, head_dim=8, key_heads=1, mlp_width=20
    )


def graph_tokens(dim: int, llm: LLM) -> GraphTokensConnector:
    """Trees of seven slots."""
    return GraphTokensConnector(dim=dim, llm_dim=llm.dim, fanout=(2, 2))


def grid_resampler(dim: int, llm: LLM) -> GridResamplerConnector:
    """2 x 2 queries on 4 x 4 patches."""
    return GridResamplerConnector(dim=dim, llm_dim=llm.dim, grid=(2, 2), heads=2, width=16)


def identity(dim: int, llm: LLM) -> IdentityConnector:
    """Width of the LLM, whatever ``dim`` is."""
    return IdentityConnector(dim=llm.dim, llm_dim=llm.dim)


def mlp(dim: int, llm: LLM) -> MlpConnector:
    """Every patch a token, two linear layers."""
    return MlpConnector(dim=dim, llm_dim=llm.dim)


def mova(dim: int, llm: LLM) -> MovaConnector:
    """A base and two experts of the same width on 4 x 4 patches, 2 x 2 tokens, one block."""
    return MovaConnector(
        dim=dim, llm_dim=llm.dim, experts=("a", "b"), source_grid=(4, 4), grid=(2, 2), depth=1, heads=2
    )


def patch_merger(dim: int, llm: LLM) -> PatchMergerConnector:
    """4 x 4 patches to 2 x 2 tokens."""
    return PatchMergerConnector(dim=dim, llm_dim=llm.dim)


def pixel_shuffle(dim: int, llm: LLM) -> PixelShuffleConnector:
    """4 x 4 patches to 2 x 2 tokens."""
    return PixelShuffleConnector(dim=dim, llm_dim=llm.dim)


def pool(dim: int, llm: LLM) -> PoolConnector:
    """4 x 4 patches to 2 x 2 tokens."""
    return PoolConnector(dim=dim, llm_dim=llm.dim, grid=(2, 2))


def qformer(dim: int, llm: LLM) -> QFormerConnector:
    """Four queries, two blocks, one of them with cross-attention."""
    return QFormerConnector(dim=dim, llm_dim=llm.dim, queries=4, depth=2, heads=2, width=16)


def resampler(dim: int, llm: LLM) -> ResamplerConnector:
    """Four latents, two blocks."""
    return ResamplerConnector(dim=dim, llm_dim=llm.dim, latents=4, depth=2, heads=2, head_dim=8)


def temporal_aligner(dim: int, llm: LLM) -> TemporalAlignerConnector:
    """One block each, 8 channels."""
    return TemporalAlignerConnector(dim=dim, llm_dim=llm.dim, width=8, heads=2, semantic_width=4)


def temporal_conv(dim: int, llm: LLM) -> TemporalConvConnector:
    """3 frames of 4 x 4 to 2 x 2 x 2 tokens, one block on each side, 16 channels."""
    return TemporalConvConnector(dim=dim, llm_dim=llm.dim, depth=1, width=16)


def texthawk(dim: int, llm: LLM) -> TextHawkConnector:
    """4 x 4 patches to four queries and two tokens, two layers."""
    return TextHawkConnector(dim=dim, llm_dim=llm.dim, depth=2, heads=2, width=8, rearrange=(1, 2))


def window_qformer(dim: int, llm: LLM) -> WindowQFormerConnector:
    """Windows of 3 of 7 indices, two queries each."""
    return WindowQFormerConnector(dim=dim, llm_dim=llm.dim, window=3, queries=2, heads=2, width=8)


def window_resampler(dim: int, llm: LLM) -> WindowResamplerConnector:
    """Windows of 3 of 7 indices, two queries each."""
    return WindowResamplerConnector(dim=dim, llm_dim=llm.dim, window=3, queries=2, heads=2)


def chains(n: int) -> dict[str, Tensor]:
    """``Features.extras`` of n graphs 2 - 0 - 1 - 3 about node 0."""
    senders, receivers = torch.tensor([[0, 1, 0, 2, 1, 3], [1, 0, 2, 0, 3, 1]])
    edges = torch.stack([senders, receivers]).expand(n, 2, 6)
    return {"edges": edges, "target": torch.zeros(n, dtype=torch.int64)}


def routes(n: int) -> dict[str, Tensor]:
    """``Features.extras`` of n items, each for both of two experts."""
    return {"experts": torch.ones(n, 2, dtype=torch.bool)}


TINY: dict[str, Tiny] = {
    "c_abstractor": Tiny(c_abstractor),
    "concat": Tiny(concat),
    "dense_connector": Tiny(dense_connector),
    "gated_resampler": Tiny(gated_resampler),
    "graph_tokens": Tiny(graph_tokens, grid=(4,), extras=chains),
    "grid_resampler": Tiny(grid_resampler),
    "identity": Tiny(identity),
    "mlp": Tiny(mlp),
    "mova": Tiny(mova, extras=routes, encoders=3),
    "patch_merger": Tiny(patch_merger),
    "pixel_shuffle": Tiny(pixel_shuffle),
    "pool": Tiny(pool),
    "qformer": Tiny(qformer),
    "resampler": Tiny(resampler),
    "temporal_aligner": Tiny(temporal_aligner, grid=(3, 2, 2)),
    "temporal_conv": Tiny(temporal_conv, grid=(3, 4, 4)),
    "texthawk": Tiny(texthawk),
    "window_qformer": Tiny(window_qformer, grid=(7,)),
    "window_resampler": Tiny(window_resampler, grid=(7,)),
}
"""Registry name -> how it is made."""
