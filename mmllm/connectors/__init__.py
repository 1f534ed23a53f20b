"""Connectors, one file each: what learns between the frozen encoders and the frozen LLM, or inside the LLM."""

TABLE: dict[str, str] = {
    "mlp": "mmllm.connectors.mlp:MlpConnector",
    "pool": "mmllm.connectors.pool:PoolConnector",
    "pixel_shuffle": "mmllm.connectors.pixel_shuffle:PixelShuffleConnector",
    "resampler": "mmllm.connectors.resampler:ResamplerConnector",
    "c_abstractor": "mmllm.connectors.c_abstractor:CAbstractorConnector",
    "identity": "mmllm.connectors.identity:IdentityConnector",
    "lora": "mmllm.connectors.lora:LoraConnector",
}
