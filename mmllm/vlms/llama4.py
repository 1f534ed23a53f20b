"""Llama 4's vision tower without its adapter, which is a connector here; ``families.py`` names it."""

from __future__ import annotations

from torch import nn
from transformers import Llama4VisionConfig, Llama4VisionModel


class Llama4Tower(Llama4VisionModel):
    """Patches of pictures, float[N, T, D] behind the last norm; in its blocks a class token stands behind them."""

    def __init__(self, config: Llama4VisionConfig) -> None:
        """``config`` of the whole tower."""
        super().__init__(config)
        self.vision_adapter = nn.Identity()
