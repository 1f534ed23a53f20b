"""Tiny multimodal models around one connector that works inside the LLM, and conversations for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from mmllm.connectors.base import Connector, DeepFusion, LLMAdapter
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.model.model import MultimodalLM, seed_for
from mmllm.testing.tiny import encoders
from mmllm.testing.tiny.copies import Prototype
from mmllm.testing.tiny.llms import tiny_llm
from mmllm.testing.tiny.regrid import Regridded
from mmllm.testing.tiny.rows import Row
from mmllm.types import Grid

PATCHES: Grid = (4, 4)
"""Grid of the tiny picture encoder."""
ROWS = (
    Row(1, (4, "image", 5), source="captions"),
    Row(2, (11,), source="text"),
    Row(3, (2, "image", 3, "image", 6), source="captions"),
    Row(4, ("image", 9), source="instruct"),
)
"""Conversations with one picture, none, two, and one at the very start."""
WITH_IMAGE = {0, 2, 3}


@cache
def tiny_vision() -> Encoder:
    """The picture encoder ``hf_vision``, read from its folder once and shared by all who ask."""
    return encoders.TINY["hf_vision"].make()


@cache
def _vision() -> Prototype[Encoder]:
    return Prototype(encoders.TINY["hf_vision"].make())


def copied_vision() -> Encoder:
    """A ``hf_vision`` of one's own; torch's random state stays."""
    with torch.random.fork_rng(devices=[]):
        return _vision().copy()


def with_adapter(
    make: Callable[..., LLMAdapter], family: str = "llama", when: tuple[str, ...] | None = None
) -> MultimodalLM:
    """A tiny LLM with ``make(llm_dim=...)`` inside as connector ``inner``, beside the projector ``image``."""
    llm, encoder = tiny_llm(family), copied_vision()
    seed_for(0, "inner")
    pool = PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2])
    connectors: dict[str, Connector] = {"image": pool, "inner": make(llm_dim=llm.dim).bind("inner", when)}
    model = MultimodalLM(llm, {"image": encoder}, connectors, {"image": "image"})
    return model.requires_grad_(False).eval()


def with_fusion(
    make: Callable[..., DeepFusion],
    family: str = "llama",
    when: tuple[str, ...] | None = None,
    grid: Grid = PATCHES,
) -> MultimodalLM:
    """A tiny LLM with ``make(dim=..., llm_dim=...)`` inside as connector ``image``, which reads pictures of 16 patches.

    ``grid`` is what it is told of them: (4, 2, 2) for one that needs time.
    """
    llm, encoder = tiny_llm(family), copied_vision()
    seen = encoder if grid == PATCHES else Regridded(encoder, grid)
    seed_for(0, "image")
    connector = make(dim=seen.dim, llm_dim=llm.dim).bind("image", when)
    model = MultimodalLM(llm, {"image": seen}, {"image": connector}, {"image": "image"})
    return model.requires_grad_(False).eval()
