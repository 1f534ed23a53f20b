"""Tiny connectors that work inside the LLM and read no features."""

from __future__ import annotations

from mmllm.connectors.llm_adapters.esft import EsftConnector
from mmllm.connectors.llm_adapters.hydra import HydraConnector
from mmllm.connectors.llm_adapters.inner_adaptor import PRIVATE, InnerAdaptorConnector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
from mmllm.connectors.llm_adapters.parallel_adapter import ParallelAdapterConnector
from mmllm.connectors.llm_adapters.peft.peft import PeftConnector
from mmllm.connectors.llm_adapters.pill import PillConnector
from mmllm.connectors.llm_adapters.series_adapter import SeriesAdapterConnector
from mmllm.testing.tiny.record import LLM, Tiny


def esft(dim: int, llm: LLM) -> EsftConnector:
    """Two experts of every block."""
    return EsftConnector(llm_dim=llm.dim, experts=[1, 4])


def hydra(dim: int, llm: LLM) -> HydraConnector:
    """Ranks 2 and 3 on the last linear of each MLP."""
    return HydraConnector(llm_dim=llm.dim, parallel_rank=2, sequential_rank=3)


def inner_adaptor(dim: int, llm: LLM) -> InnerAdaptorConnector:
    """Copies after layers 0 and 2, zeroed, with everything private."""
    return InnerAdaptorConnector(llm_dim=llm.dim, after=[0, 2], init="zero", private=PRIVATE)


def lora(dim: int, llm: LLM) -> LoraConnector:
    """Rank 2 on every linear layer."""
    return LoraConnector(llm_dim=llm.dim, rank=2, alpha=4)


def moe_lora(dim: int, llm: LLM) -> MoeLoraConnector:
    """Three experts of rank 4 per MLP, top-1, a balance, and LoRA on the attention."""
    return MoeLoraConnector(
        llm_dim=llm.dim, rank=4, alpha=8, experts=3, router_bias=True, balance_weight=0.1, attention=2
    )


def parallel_adapter(dim: int, llm: LLM) -> ParallelAdapterConnector:
    """Width 4 in every block, without dropout."""
    return ParallelAdapterConnector(llm_dim=llm.dim, width=4, scale=0.5, dropout=0.0)


def peft(dim: int, llm: LLM) -> PeftConnector:
    """DoRA of rank 2 on every linear layer."""
    return PeftConnector(llm_dim=llm.dim, method="dora", rank=2, alpha=4.0)


def pill(dim: int, llm: LLM) -> PillConnector:
    """Bottlenecks of 4, with value gates."""
    return PillConnector(llm_dim=llm.dim, width=4)


def series_adapter(dim: int, llm: LLM) -> SeriesAdapterConnector:
    """Width 4 in every block."""
    return SeriesAdapterConnector(llm_dim=llm.dim, width=4)


TINY: dict[str, Tiny] = {
    "esft": Tiny(esft, family="qwen2_moe"),
    "hydra": Tiny(hydra),
    "inner_adaptor": Tiny(inner_adaptor),
    "lora": Tiny(lora),
    "moe_lora": Tiny(moe_lora),
    "parallel_adapter": Tiny(parallel_adapter),
    "peft": Tiny(peft),
    "pill": Tiny(pill),
    "series_adapter": Tiny(series_adapter),
}
"""Registry name -> how it is made."""
