"""Tiny assemblies with one adapter inside two picture encoders, for tests of training, checkpoints and ranks."""

from __future__ import annotations

from mmllm.connectors.base import Connector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.model.model import MultimodalLM, seed_for
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.models import copied_vision
from tests.support.adapted import variant
from tests.support.assemblies import Row
from tests.support.parts import tiny_llm

BOTH = Row(1, (4, "image", 5, "page", 2), source="captions")
PICTURE = Row(2, (4, "image", 5), source="captions")
PAGE = Row(3, ("page", 6), source="instruct")
TEXT = Row(4, (9,), source="captions")


def adapted_assembly(kind: str | None) -> MultimodalLM:
    """Encoders ``image`` (DINOv2) and ``page`` (CLIP), connectors to 4 tokens each, and ``inner`` inside both."""
    llm = tiny_llm("llama")
    encoders: dict[str, Encoder] = {"image": copied_vision(), "page": tiny_encoders.open_clip_tower()}
    seed_for(0, "connectors")
    connectors: dict[str, Connector] = {
        key: PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2]) for key, encoder in encoders.items()
    }
    if kind is not None:
        connectors["inner"] = variant(kind)
    adapts = {"inner": ("image", "page")}
    model = MultimodalLM(llm, encoders, connectors, {"image": "image", "page": "page"}, adapts=adapts)
    return model.requires_grad_(False).eval()
