"""Tiny connectors that work inside encoders."""

from __future__ import annotations

from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.connectors.encoder_adapters.any2point.any2point import Any2PointConnector
from mmllm.connectors.encoder_adapters.audio_adapter_fusion import AudioAdapterFusionConnector
from mmllm.connectors.encoder_adapters.conformer_adapter import ConformerAdapterConnector
from mmllm.connectors.encoder_adapters.mixture_of_adapters import MixtureOfAdaptersConnector
from mmllm.connectors.encoder_adapters.ted_adapter import TedAdapterConnector
from mmllm.connectors.encoder_adapters.text_memory import TextMemoryConnector
from mmllm.connectors.encoder_adapters.vl_adapter import VlAdapterConnector
from mmllm.testing.tiny.record import LLM, Tiny


def adaptformer(dim: int, llm: LLM) -> AdaptformerConnector:
    """Width 8 in every block, without dropout."""
    return AdaptformerConnector(llm_dim=llm.dim, width=8, scale=0.5, dropout=0.0)


def any2point(dim: int, llm: LLM) -> Any2PointConnector:
    """Two views, narrow."""
    return Any2PointConnector(
        dim=dim, llm_dim=llm.dim, width=6, neighbours=4, views=2, adapter=4, inner=4, span=2, patches=2
    )


def audio_adapter_fusion(dim: int, llm: LLM) -> AudioAdapterFusionConnector:
    """Two tasks, width 4."""
    return AudioAdapterFusionConnector(llm_dim=llm.dim, tasks={"one": ["captions"], "two": ["instruct"]}, width=4)


def conformer_adapter(dim: int, llm: LLM) -> ConformerAdapterConnector:
    """A quarter of the width, over five tokens."""
    return ConformerAdapterConnector(llm_dim=llm.dim, reduction=4, kernel=5)


def mixture_of_adapters(dim: int, llm: LLM) -> MixtureOfAdaptersConnector:
    """Two shared ones and one own of width 4."""
    return MixtureOfAdaptersConnector(llm_dim=llm.dim, width=4)


def ted_adapter(dim: int, llm: LLM) -> TedAdapterConnector:
    """Width 4 at both places of every block."""
    return TedAdapterConnector(llm_dim=llm.dim, width=4)


def text_memory(dim: int, llm: LLM) -> TextMemoryConnector:
    """Three slots."""
    return TextMemoryConnector(dim=dim, llm_dim=llm.dim, slots=3, adapter=4)


def vl_adapter(dim: int, llm: LLM) -> VlAdapterConnector:
    """A quarter of the width."""
    return VlAdapterConnector(llm_dim=llm.dim, reduction=4)


TINY: dict[str, Tiny] = {
    "adaptformer": Tiny(adaptformer),
    "any2point": Tiny(any2point, grid=(8,)),
    "audio_adapter_fusion": Tiny(audio_adapter_fusion),
    "conformer_adapter": Tiny(conformer_adapter),
    "mixture_of_adapters": Tiny(mixture_of_adapters),
    "ted_adapter": Tiny(ted_adapter),
    "text_memory": Tiny(text_memory, grid=(6,)),
    "vl_adapter": Tiny(vl_adapter),
}
"""Registry name -> how it is made."""
