"""Idefics2's tower (Laurencon et al. 2024, arXiv 2405.02246): a SigLIP whose table of positions spans any picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.image.native.attention import bounds_of
from mmllm.encoders.image.native.tower import Tower, lengths_of
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.idefics2 import Idefics2Patching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.types import Grid


class Idefics2Tower(Tower):
    """``Idefics2VisionTransformer``; ``final`` is the state after its last norm."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return Idefics2Patching.of(own, config.patch_size, limits)

    @property
    def blocks(self) -> Blocks:
        """Its encoder's layers."""
        layers = self.vision.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def norm(self) -> nn.Module:
        """Over every patch."""
        norm = self.vision.post_layernorm
        assert isinstance(norm, nn.Module)
        return norm

    def run(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """float[1, sum of P, D]."""
        lengths = lengths_of(grids)
        # its embeddings know one size in a batch; one by one no picture is padded
        each = zip(patches.split(lengths), grids, strict=True)
        embedded = torch.cat([self._embedded(one, *grid) for one, grid in each], dim=1)
        last: Tensor = self.vision.encoder(
            inputs_embeds=embedded, attention_mask=bounds_of(lengths, patches.device)
        ).last_hidden_state
        return last

    def _embedded(self, patches: Tensor, rows: int, cols: int) -> Tensor:
        """float[1, rows * cols, D] of one picture's patches with their positions."""
        side = self.vision.config.patch_size
        cut = patches.reshape(rows, cols, -1, side, side).permute(2, 0, 3, 1, 4)
        whole = torch.ones(1, rows, cols, dtype=torch.bool, device=patches.device)
        found: Tensor = self.vision.embeddings(cut.reshape(1, -1, rows * side, cols * side), whole)
        return found
