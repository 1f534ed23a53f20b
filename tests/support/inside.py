"""Tiny assemblies around one connector that works inside the LLM, and rows for them; the contract tests walk these."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch

from mmllm import registry
from mmllm.connectors.base import Connector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.model.model import MultimodalLM, seed_for
from mmllm.types import Features
from tests.support.assemblies import Row, tiny_encoder
from tests.support.parts import tiny_llm

INSIDE = [name for name in registry.table("connectors") if "attach" in registry.methods("connectors", name)]
"""Every registered connector that works inside the LLM."""
WITH_FEATURES = [name for name in INSIDE if "dim" in registry.parameters("connectors", name)]
"""Those that get, or may get, the features of an encoder."""
WITHOUT_FEATURES = [
    name for name in INSIDE if name not in WITH_FEATURES or not registry.parameters("connectors", name)["dim"].required
]
VARIANTS = [*WITHOUT_FEATURES, *(f"{name} from image" for name in WITH_FEATURES)]
"""A connector beside a projector, or (`from image`) with the features itself."""
ROWS = (
    Row(1, (4, "image", 5), source="captions"),
    Row(2, (11,), source="text"),
    Row(3, (2, "image", 3, "image", 6), source="captions"),
    Row(4, ("image", 9), source="instruct"),
)
"""Conversations with one picture, none, two, and one at the very start."""
WITH_IMAGE = {0, 2, 3}


class Clips(HfVisionEncoder):
    """The tiny encoder whose 4 x 4 patches are told to be 4 frames of 2 x 2, for connectors that need time."""

    def grid(self, inputs: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """(time, rows, cols) of one item; of a batch, which its forward asks for, what it really has."""
        return (4, 2, 2) if inputs["pixels"].dim() == 3 else super().grid(inputs)

    def fixed_grid(self) -> tuple[int, ...]:
        """Of every item."""
        return (4, 2, 2)

    def forward(self, **inputs: torch.Tensor) -> Features:
        """The features of the pictures."""
        return replace(super().forward(**inputs), grid=(4, 2, 2))


def key_of(variant: str) -> str:
    """Key of the connector under test in :func:`inside`."""
    return "image" if variant.endswith(" from image") else "inner"


def inside(variant: str, family: str = "llama", when: tuple[str, ...] | None = None) -> MultimodalLM:
    """A tiny LLM with the connector's ``tiny()``; weights as they start."""
    llm, encoder = tiny_llm(family), deepcopy(tiny_encoder())
    made = registry.load("connectors", variant.removesuffix(" from image"))
    seed_for(0, variant)
    connectors: dict[str, Connector] = {}
    if key_of(variant) == "image":
        connectors["image"] = made.tiny(encoder.dim, llm)
        if len(made.tiny_grid) == 3:
            encoder.__class__ = Clips
    else:
        connectors["image"] = PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2])
        connectors["inner"] = made.tiny(0, llm)
    connectors[key_of(variant)].when = when
    assembly = MultimodalLM(llm, {"image": encoder}, connectors, {"image": "image"})
    return assembly.requires_grad_(False).eval()


def connector_of(assembly: MultimodalLM, variant: str) -> Connector:
    """The connector under test."""
    connector = assembly.connectors[key_of(variant)]
    assert isinstance(connector, Connector)
    return connector
