"""Towers laid out as SigLIP: an encoder's layers over packed patches, embedded picture by picture, and a last norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.image.native.attention import bounds_of
from mmllm.encoders.image.native.tower import Tower, lengths_of
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.idefics2 import Idefics2Patching
from mmllm.processors.native.naflex import NaflexPatching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.types import Grid


class SiglipLikeTower(Tower):
    """Base of these; ``final`` is the state after the last norm."""

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
        # embeddings pad several pictures, or know one size in a batch: one by one they are packed as they are
        each = zip(patches.split(lengths), grids, strict=True)
        embedded = torch.cat([self.embedded(one, *grid) for one, grid in each], dim=1)
        last: Tensor = self.vision.encoder(
            inputs_embeds=embedded, attention_mask=bounds_of(lengths, patches.device)
        ).last_hidden_state
        return last

    def embedded(self, patches: Tensor, rows: int, cols: int) -> Tensor:
        """float[1, rows * cols, D] of one picture's patches with their positions."""
        raise NotImplementedError


class NaflexTower(SiglipLikeTower):
    """``Siglip2VisionModel`` (Tschannen et al. 2025, arXiv 2502.14786): positions resized to each picture."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return NaflexPatching.of(own, config.patch_size, limits)

    def embedded(self, patches: Tensor, rows: int, cols: int) -> Tensor:
        """The patches are vectors there too."""
        found: Tensor = self.vision.embeddings(patches[None], torch.tensor([(rows, cols)]))
        return found


class Idefics2Tower(SiglipLikeTower):
    """``Idefics2VisionTransformer`` (Laurencon et al. 2024, arXiv 2405.02246): one table of positions for any shape."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return Idefics2Patching.of(own, config.patch_size, limits)

    def embedded(self, patches: Tensor, rows: int, cols: int) -> Tensor:
        """It takes the picture, which is put together again."""
        side = self.vision.config.patch_size
        cut = patches.reshape(rows, cols, -1, side, side).permute(2, 0, 3, 1, 4)
        whole = torch.ones(1, rows, cols, dtype=torch.bool, device=patches.device)
        found: Tensor = self.vision.embeddings(cut.reshape(1, -1, rows * side, cols * side), whole)
        return found
