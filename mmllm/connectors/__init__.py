"""Connectors, one file each: what learns between the frozen encoders and the frozen LLM, or inside the LLM."""

TABLE: dict[str, str] = {
    "mlp": "mmllm.connectors.mlp:MlpConnector",
    "pool": "mmllm.connectors.pool:PoolConnector",
    "temporal_conv": "mmllm.connectors.temporal_conv:TemporalConvConnector",
    "pixel_shuffle": "mmllm.connectors.pixel_shuffle:PixelShuffleConnector",
    "resampler": "mmllm.connectors.resampler:ResamplerConnector",
    "c_abstractor": "mmllm.connectors.c_abstractor:CAbstractorConnector",
    "identity": "mmllm.connectors.identity:IdentityConnector",
    "dense_connector": "mmllm.connectors.dense_connector:DenseConnector",
    "deepstack": "mmllm.connectors.deepstack:DeepstackConnector",
    "layerwise": "mmllm.connectors.layerwise:LayerwiseConnector",
    "gated_cross_attention": "mmllm.connectors.gated_cross_attention:GatedCrossAttentionConnector",
    "llama_adapter": "mmllm.connectors.llama_adapter:LlamaAdapterConnector",
    "inner_adaptor": "mmllm.connectors.inner_adaptor:InnerAdaptorConnector",
    "pill": "mmllm.connectors.pill:PillConnector",
    "lora": "mmllm.connectors.lora:LoraConnector",
    "moe_lora": "mmllm.connectors.moe_lora:MoeLoraConnector",
    "hydra": "mmllm.connectors.hydra:HydraConnector",
    "series_adapter": "mmllm.connectors.series_adapter:SeriesAdapterConnector",
    "parallel_adapter": "mmllm.connectors.parallel_adapter:ParallelAdapterConnector",
    "peft": "mmllm.connectors.peft:PeftConnector",
}
