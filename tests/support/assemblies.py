"""A tiny model with two image encoders and LoRA, and packed rows for it, shared by tests of the model."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.models import copied_vision
from mmllm.testing.tiny.rows import Row, batch_of, shortened
from tests.support.parts import tiny_llm

__all__ = ["Row", "assembly_of", "batch_of", "shortened", "tiny_assembly", "tiny_encoder"]


@cache
def tiny_encoder() -> HfVisionEncoder:
    """Read from its folder once; copy it before use."""
    return tiny_encoders.hf_vision()


def tiny_assembly(family: str = "llama", lora: bool = True, **words: float) -> MultimodalLM:
    """Encoders ``image`` and ``page`` (4 x 4 patches each), connectors to 4 and 16 tokens, LoRA with random ``b``."""
    llm = tiny_llm(family)
    encoders = {key: copied_vision() for key in ("image", "page")}
    torch.manual_seed(7)
    connectors: dict[str, nn.Module] = {
        "image": PoolConnector(dim=encoders["image"].dim, llm_dim=llm.dim, grid=[2, 2]),
        "page": MlpConnector(dim=encoders["page"].dim, llm_dim=llm.dim),
    }
    if lora:
        connectors["lora"] = LoraConnector(llm_dim=llm.dim, rank=2, alpha=4, **words)  # type: ignore[arg-type]
    model = MultimodalLM(llm, encoders, connectors, {"image": "image", "page": "page"})  # type: ignore[arg-type]
    if lora:
        for layer in model.connectors["lora"].layers.values():  # type: ignore[union-attr]
            nn.init.normal_(layer.b.weight, std=0.1)
    return model.requires_grad_(False).eval()


def assembly_of(
    made: type[Connector], family: str = "llama", encoder: Encoder | None = None, shaken: bool = False, **words: Any
) -> MultimodalLM:
    """A tiny LLM that sees ``encoder``'s items (pictures if None) through this connector, as it starts or ``shaken``.

    Shaken, every weight is random, gates too.
    """
    llm, seen = tiny_llm(family), copied_vision() if encoder is None else encoder
    torch.manual_seed(3)
    connector = made(dim=seen.dim * len(seen.layers), llm_dim=llm.dim, **words)
    key = seen.modality
    model = MultimodalLM(llm, {key: seen}, {key: connector}, {key: key}).requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * shaken)
    return model
