"""Pixtral's tower (Agrawal et al. 2024, arXiv 2410.07073): a rotary embedding of rows and columns, no final norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmllm.encoders.image.native.attention import bounds_of
from mmllm.encoders.image.native.tower import Tower, lengths_of, places
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.pixtral import PixtralPatching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.types import Grid


class PixtralTower(Tower):
    """``PixtralVisionModel``. Layer 0 is the normed patches; ``final`` is layer -1, as nothing norms that."""

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts, with the tower's patches: the processor's own patch is the text's, merged."""
        return PixtralPatching.of(own, config.patch_size, limits)

    @property
    def blocks(self) -> Blocks:
        """Its attention layers."""
        layers = self.vision.transformer.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def run(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """float[1, sum of P, D]."""
        vision, side = self.vision, self.vision.config.patch_size
        # each patch is a picture of its own for the convolution, whose steps are as long as its kernel
        embedded = vision.patch_conv(patches.unflatten(1, (-1, side, side))).flatten(1)[None]
        embedded = vision.ln_pre(embedded)
        rotation = vision.patch_positional_embedding(embedded, places(grids, patches.device))
        bounds = bounds_of(lengths_of(grids), patches.device)
        last: Tensor = vision.transformer(
            embedded, attention_mask=bounds, position_embeddings=rotation
        ).last_hidden_state
        return last
