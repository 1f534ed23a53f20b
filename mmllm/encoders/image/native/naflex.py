"""SigLIP 2's NaFlex tower (Tschannen et al. 2025, arXiv 2502.14786): its table of positions resized to each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.image.native.attention import bounds_of
from mmllm.encoders.image.native.tower import Tower, lengths_of
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.naflex import NaflexPatching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.types import Grid


class NaflexTower(Tower):
    """``Siglip2VisionModel``; ``final`` is the state after its last norm."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return NaflexPatching.of(own, config.patch_size, limits)

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
        # its embeddings pad several pictures to the longest; one by one they are packed as they are
        each = zip(patches.split(lengths), grids, strict=True)
        embedded = [self.vision.embeddings(one[None], torch.tensor([grid])) for one, grid in each]
        bounds = bounds_of(lengths, patches.device)
        last: Tensor = self.vision.encoder(
            inputs_embeds=torch.cat(embedded, dim=1), attention_mask=bounds
        ).last_hidden_state
        return last
