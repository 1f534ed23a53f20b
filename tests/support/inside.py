"""Tiny models around each registered connector that works inside the LLM; the contract tests walk these."""

from __future__ import annotations

from mmllm import registry
from mmllm.connectors.base import DeepFusion, LLMAdapter
from mmllm.model.model import MultimodalLM
from mmllm.recipe import part_arguments
from mmllm.testing.tiny import deep_fusion, llm_adapters
from mmllm.testing.tiny.models import PATCHES, ROWS, WITH_IMAGE, with_adapter, with_fusion
from mmllm.testing.tiny.record import Tiny
from mmllm.types import Grid

__all__ = ["INSIDE", "ROWS", "VARIANTS", "WITH_IMAGE", "connector_of", "grid_of", "inside", "key_of", "tiny_of"]

TINY: dict[str, Tiny] = {**llm_adapters.TINY, **deep_fusion.TINY}
INSIDE = [
    name for name in registry.table("connectors") if part_arguments.works_inside(name) and TINY[name].family == "llama"
]
"""Every registered connector that works inside any LLM; those for LLMs with experts have tests of their own."""
WITH_FEATURES = [name for name in INSIDE if part_arguments.takes_features(name) is not False]
"""Those that get, or may get, the features of an encoder."""
WITHOUT_FEATURES = [name for name in INSIDE if not part_arguments.takes_features(name)]
VARIANTS = [*WITHOUT_FEATURES, *(f"{name} from image" for name in WITH_FEATURES)]
"""A connector beside a projector, or (`from image`) with the features itself."""


def key_of(variant: str) -> str:
    """Key of the connector under test in :func:`inside`."""
    return "image" if variant.endswith(" from image") else "inner"


def tiny_of(variant: str) -> Tiny:
    """What makes the connector under test."""
    return TINY[variant.removesuffix(" from image")]


def grid_of(variant: str) -> Grid:
    """What it is told of pictures: frames where it needs time."""
    grid = tiny_of(variant).grid
    return grid if len(grid) == 3 else PATCHES


def inside(variant: str, family: str = "llama", when: tuple[str, ...] | None = None) -> MultimodalLM:
    """A tiny LLM with the connector inside; weights as they start."""
    if key_of(variant) == "image":
        return with_fusion(tiny_of(variant), family, when, grid_of(variant))
    return with_adapter(tiny_of(variant), family, when)


def connector_of(model: MultimodalLM, variant: str) -> LLMAdapter:
    """The connector under test, a :class:`DeepFusion` where it reads features."""
    connector = model.connectors[key_of(variant)]
    assert isinstance(connector, DeepFusion if key_of(variant) == "image" else LLMAdapter)
    return connector
