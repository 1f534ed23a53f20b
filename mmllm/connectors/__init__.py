"""Connectors: what learns between the frozen encoders and the frozen LLM, or inside them; a folder for each kind.

``from mmllm.connectors import LoraConnector`` and the like give any class of the tables and the base classes.
"""

from __future__ import annotations

import importlib
from typing import Any

PROJECTORS: dict[str, str] = {
    "mlp": "mmllm.connectors.projectors.mlp:MlpConnector",
    "pool": "mmllm.connectors.projectors.pool:PoolConnector",
    "temporal_conv": "mmllm.connectors.projectors.temporal_conv:TemporalConvConnector",
    "temporal_aligner": "mmllm.connectors.projectors.temporal_aligner.temporal_aligner:TemporalAlignerConnector",
    "pixel_shuffle": "mmllm.connectors.projectors.pixel_shuffle:PixelShuffleConnector",
    "patch_merger": "mmllm.connectors.projectors.patch_merger:PatchMergerConnector",
    "resampler": "mmllm.connectors.projectors.resampler:ResamplerConnector",
    "window_resampler": "mmllm.connectors.projectors.window_resampler:WindowResamplerConnector",
    "qformer": "mmllm.connectors.projectors.qformer:QFormerConnector",
    "grid_resampler": "mmllm.connectors.projectors.grid_resampler:GridResamplerConnector",
    "gated_resampler": "mmllm.connectors.projectors.gated_resampler:GatedResamplerConnector",
    "window_qformer": "mmllm.connectors.projectors.window_qformer:WindowQFormerConnector",
    "texthawk": "mmllm.connectors.projectors.texthawk.texthawk:TextHawkConnector",
    "c_abstractor": "mmllm.connectors.projectors.c_abstractor:CAbstractorConnector",
    "identity": "mmllm.connectors.projectors.identity:IdentityConnector",
    "dense_connector": "mmllm.connectors.projectors.dense_connector:DenseConnector",
    "concat": "mmllm.connectors.projectors.concat:ConcatConnector",
    "mova": "mmllm.connectors.projectors.mova.mova:MovaConnector",
    "graph_tokens": "mmllm.connectors.projectors.graph_tokens:GraphTokensConnector",
}
"""Encoder features -> tokens of the LLM."""
DEEP_FUSION: dict[str, str] = {
    "deepstack": "mmllm.connectors.deep_fusion.deepstack:DeepstackConnector",
    "layerwise": "mmllm.connectors.deep_fusion.layerwise:LayerwiseConnector",
    "gated_cross_attention": "mmllm.connectors.deep_fusion.gated_cross_attention:GatedCrossAttentionConnector",
    "cross_attention_layers": (
        "mmllm.connectors.deep_fusion.cross_attention_layers.cross_attention_layers:CrossAttentionLayersConnector"
    ),
    "iva": "mmllm.connectors.deep_fusion.iva.iva:IvaConnector",
    "graph_adapter": "mmllm.connectors.deep_fusion.graph_adapter:GraphAdapterConnector",
    "llama_adapter": "mmllm.connectors.deep_fusion.llama_adapter.llama_adapter:LlamaAdapterConnector",
}
"""Layers inside the LLM that read encoder features."""
LLM_ADAPTERS: dict[str, str] = {
    "inner_adaptor": "mmllm.connectors.llm_adapters.inner_adaptor:InnerAdaptorConnector",
    "pill": "mmllm.connectors.llm_adapters.pill:PillConnector",
    "lora": "mmllm.connectors.llm_adapters.lora:LoraConnector",
    "moe_lora": "mmllm.connectors.llm_adapters.moe_lora.moe_lora:MoeLoraConnector",
    "hydra": "mmllm.connectors.llm_adapters.hydra:HydraConnector",
    "series_adapter": "mmllm.connectors.llm_adapters.series_adapter:SeriesAdapterConnector",
    "parallel_adapter": "mmllm.connectors.llm_adapters.parallel_adapter:ParallelAdapterConnector",
    "esft": "mmllm.connectors.llm_adapters.esft:EsftConnector",
    "peft": "mmllm.connectors.llm_adapters.peft.peft:PeftConnector",
}
"""Inside the LLM."""
ENCODER_ADAPTERS: dict[str, str] = {
    "any2point": "mmllm.connectors.encoder_adapters.any2point.any2point:Any2PointConnector",
    "text_memory": "mmllm.connectors.encoder_adapters.text_memory:TextMemoryConnector",
    "ted_adapter": "mmllm.connectors.encoder_adapters.ted_adapter:TedAdapterConnector",
    "adaptformer": "mmllm.connectors.encoder_adapters.adaptformer:AdaptformerConnector",
    "vl_adapter": "mmllm.connectors.encoder_adapters.vl_adapter:VlAdapterConnector",
    "conformer_adapter": "mmllm.connectors.encoder_adapters.conformer_adapter:ConformerAdapterConnector",
    "mixture_of_adapters": "mmllm.connectors.encoder_adapters.mixture_of_adapters:MixtureOfAdaptersConnector",
    "audio_adapter_fusion": "mmllm.connectors.encoder_adapters.audio_adapter_fusion:AudioAdapterFusionConnector",
}
"""Inside an encoder."""
TABLE: dict[str, str] = {**PROJECTORS, **DEEP_FUSION, **LLM_ADAPTERS, **ENCODER_ADAPTERS}
KINDS = {
    "projectors, encoder features to tokens of the LLM": PROJECTORS,
    "deep fusion, inside the LLM with encoder features": DEEP_FUSION,
    "LLM adapters, inside the LLM": LLM_ADAPTERS,
    "encoder adapters, inside an encoder": ENCODER_ADAPTERS,
}
"""Heading of a kind -> its table."""
BASES = ("Connector", "Projector", "SeveralEncoders", "LLMAdapter", "DeepFusion", "EncoderAdapter")
"""Base classes, in ``mmllm.connectors.base``."""


def __getattr__(name: str) -> Any:
    """A class by its name, imported when it is first asked for: naming parts must not import torch."""
    if name in BASES:
        return getattr(importlib.import_module("mmllm.connectors.base"), name)
    for where in TABLE.values():
        module, _, found = where.partition(":")
        if found == name:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
