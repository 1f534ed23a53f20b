"""Tiny connectors inside the LLM that read an encoder's features."""

from __future__ import annotations

from mmllm.connectors.deep_fusion.cross_attention_layers.cross_attention_layers import CrossAttentionLayersConnector
from mmllm.connectors.deep_fusion.deepstack import DeepstackConnector
from mmllm.connectors.deep_fusion.gated_cross_attention import GatedCrossAttentionConnector
from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.connectors.deep_fusion.iva.iva import IvaConnector
from mmllm.connectors.deep_fusion.layerwise import LayerwiseConnector
from mmllm.connectors.deep_fusion.llama_adapter.llama_adapter import LlamaAdapterConnector
from mmllm.testing.tiny.projectors import chains
from mmllm.testing.tiny.record import LLM, Tiny


def deepstack(dim: int, llm: LLM) -> DeepstackConnector:
    """4 x 4 patches to 2 x 2 tokens, four stacks before blocks 0 to 3."""
    return DeepstackConnector(dim=dim, llm_dim=llm.dim, start=0)


def gated_cross_attention(dim: int, llm: LLM) -> GatedCrossAttentionConnector:
    """Three latents, before blocks 1 and 3 of four."""
    return GatedCrossAttentionConnector(dim=dim, llm_dim=llm.dim, every=2, latents=3, depth=1, heads=2, head_dim=4)


def cross_attention_layers(dim: int, llm: LLM) -> CrossAttentionLayersConnector:
    """Before blocks 1 and 3 of four, text in front of an item reading it too."""
    return CrossAttentionLayersConnector(dim=dim, llm_dim=llm.dim, every=2, mlp_width=16, reads_ahead=True)


def graph_adapter(dim: int, llm: LLM) -> GraphAdapterConnector:
    """A network of width 8, at both places."""
    return GraphAdapterConnector(dim=dim, llm_dim=llm.dim, hidden=8, at="both")


def iva(dim: int, llm: LLM) -> IvaConnector:
    """Two frames of four, before blocks 1 and 3 of four."""
    return IvaConnector(dim=dim, llm_dim=llm.dim, heads=2, head_dim=4, width=16, every=2, top_k=2, selector_width=8)


def layerwise(dim: int, llm: LLM) -> LayerwiseConnector:
    """Three latents of width 8 in every block."""
    return LayerwiseConnector(dim=dim, llm_dim=llm.dim, tokens=3, rank=4, width=8, depth=1, heads=2, head_dim=4)


def llama_adapter(dim: int, llm: LLM) -> LlamaAdapterConnector:
    """V2 with everything it has, two prompts; without features (``dim`` 0) prompts alone."""
    return LlamaAdapterConnector(
        dim=dim,
        llm_dim=llm.dim,
        prompts=2,
        layers=3,
        fusion="early" if dim else "global",
        visual_prompts=4 if dim else 20,
        tuning=("bias", "scale", "norm"),
    )


TINY: dict[str, Tiny] = {
    "deepstack": Tiny(deepstack),
    "gated_cross_attention": Tiny(gated_cross_attention),
    "cross_attention_layers": Tiny(cross_attention_layers),
    "graph_adapter": Tiny(graph_adapter, grid=(4,), extras=chains),
    "iva": Tiny(iva, grid=(4, 2, 2)),
    "layerwise": Tiny(layerwise),
    "llama_adapter": Tiny(llama_adapter),
}
"""Registry name -> how it is made."""
