"""Published forms of MoE-LoRA as settings, and a tiny model whose LLM holds such experts."""

from __future__ import annotations

from typing import Any

from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import tiny_encoder
from tests.support.parts import randomise, tiny_llm

LLAVA_MOLE = {"rank": 4, "alpha": 6, "experts": 3, "router_bias": True, "balance_weight": 0.5, "attention": 2}
LINEAR = {"rank": 4, "alpha": 8, "targets": "all-linear", "router": "linear"}
MOLA = {**LINEAR, "experts": "inverted_triangle", "experts_mean": 5, "top_k": 2, "renormalise": True}
METEORA = {
    **LINEAR, "experts": 3, "top_k": 2, "renormalise": True, "temperature": 3.0,
    "supervised": {"captions": 0, "text": 2, "instruct": -1}, "supervision_weight": 0.7,
}  # fmt: skip
MOLA_BALANCED = {**MOLA, "balance": "switch", "balance_weight": 0.5}
LORAMOE = {**LINEAR, "experts": 3, "top_k": 0}
FORMS: dict[str, dict[str, Any]] = {
    "llava_mole": LLAVA_MOLE,
    "unaligned": {**LLAVA_MOLE, "rank": 3},
    "mola": MOLA_BALANCED,
    "meteora": METEORA,
    "loramoe": LORAMOE,
}
"""Published forms by name, and one whose widths do not suit grouped products."""


def with_moe(words: dict[str, Any], family: str = "llama") -> tuple[MultimodalLM, MoeLoraConnector]:
    """A tiny model whose LLM holds the experts, every weight random."""
    llm, encoder = tiny_llm(family), tiny_encoder()
    moe = MoeLoraConnector(llm_dim=llm.dim, **words)
    pool = PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2])
    model = MultimodalLM(llm, {"image": encoder}, {"image": pool, "moe": moe}, {"image": "image"})
    randomise(moe)
    return model.requires_grad_(False).eval(), moe
