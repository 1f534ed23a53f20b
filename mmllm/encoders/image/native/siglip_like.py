"""Towers laid out as SigLIP: an encoder's layers over packed patches, and a last norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmllm.encoders.image.native.attention import bounds_of
from mmllm.encoders.image.native.tower import Tower, lengths_of
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.idefics2 import Idefics2Patching
from mmllm.processors.native.lfm2_vl import Lfm2VlPatching
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
        # one call whatever they are: with ZeRO-3 every rank has to make as many
        embedded = self.embedded(list(patches.split(lengths)), grids)[None]
        last: Tensor = self.vision.encoder(
            inputs_embeds=embedded, attention_mask=bounds_of(lengths, patches.device)
        ).last_hidden_state
        return last

    def embedded(self, patches: list[Tensor], grids: Sequence[Grid]) -> Tensor:
        """float[sum of P, D] of the patches float[P, C] of each picture with their positions."""
        raise NotImplementedError


class NaflexTower(SiglipLikeTower):
    """``Siglip2VisionModel`` (Tschannen et al. 2025, arXiv 2502.14786): positions resized to each picture."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts, that of LFM2-VL or SigLIP 2's own."""
        kind = Lfm2VlPatching if hasattr(own, "encoder_patch_size") else NaflexPatching
        return kind.of(own, config.patch_size, limits)

    def embedded(self, patches: list[Tensor], grids: Sequence[Grid]) -> Tensor:
        """The patches are vectors there too, padded to the most of them."""
        found: Tensor = self.vision.embeddings(pad_sequence(patches, batch_first=True), torch.tensor(grids))
        return torch.cat([row[: len(own)] for row, own in zip(found, patches, strict=True)])


class Idefics2Tower(SiglipLikeTower):
    """``Idefics2VisionTransformer`` (Laurencon et al. 2024, arXiv 2405.02246): one table of positions for any shape."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return Idefics2Patching.of(own, config.patch_size, limits)

    def embedded(self, patches: list[Tensor], grids: Sequence[Grid]) -> Tensor:
        """It takes pictures, which are put together again, each in a corner of what holds all of them."""
        side = self.vision.config.patch_size
        height, width = (max(sizes) for sizes in zip(*grids, strict=True))
        canvas = patches[0].new_zeros(len(grids), height, width, patches[0].shape[1])
        real = torch.zeros(canvas.shape[:3], dtype=torch.bool)
        for number, (own, (rows, cols)) in enumerate(zip(patches, grids, strict=True)):
            canvas[number, :rows, :cols] = own.unflatten(0, (rows, cols))
            real[number, :rows, :cols] = True
        real = real.to(canvas.device)
        pixels = canvas.unflatten(3, (-1, side, side)).permute(0, 3, 1, 4, 2, 5)
        found: Tensor = self.vision.embeddings(pixels.flatten(4).flatten(2, 3), real)
        return found[real.flatten(1)]
