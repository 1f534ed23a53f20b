"""The ``hf_native`` encoder: towers of transformers that see pictures at their own size and shape, packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoImageProcessor, PreTrainedModel

from mmllm.encoders.base import Encoder
from mmllm.encoders.blocks import EncoderBlock
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.hf_vision import load_vision
from mmllm.encoders.image.native.attention import ATTENTION, register
from mmllm.encoders.image.native.pixtral import PixtralTower
from mmllm.encoders.image.native.qwen import Qwen2Tower, Qwen3Tower, Qwen25Tower
from mmllm.encoders.image.native.siglip_like import Idefics2Tower, NaflexTower
from mmllm.encoders.image.native.tower import Tower, lengths_of
from mmllm.encoders.masks import real_tokens
from mmllm.encoders.pretrained import load_processor
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.image import MAX_PIXELS
from mmllm.processors.native.processor import Limits, NativeProcessor, Patching
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.types import Features, Grid

TOWERS: Mapping[str, type[Tower]] = {
    "pixtral": PixtralTower,
    "siglip2_vision_model": NaflexTower,
    "qwen2_vl_vision": Qwen2Tower,
    "qwen2_5_vl_vision": Qwen25Tower,
    "qwen3_vl_vision": Qwen3Tower,
    "idefics2_vision": Idefics2Tower,
}
"""``model_type`` of a tower's configuration -> how it is run; ``vlms.tower.NATIVE`` lists them for who loads."""


class HfNativeEncoder(Encoder):
    """A vision transformer for pictures of any size (NaViT, Dehghani et al. 2023, arXiv 2307.06304).

    Every picture keeps its shape and is cut into as many patches as it has; those of a batch stand in one row without
    padding, and each picture attends to itself alone. Pixels are those of the folder's own image processor. How large
    pictures become is its setting, or ``longest`` (pixels of the longer side, at most), ``least`` and ``most`` (pixels
    of a picture, at least and at most), whichever it knows; smaller ones make training cheaper. ``merge: 2`` brings
    sides to multiples of two patches, for connectors that merge blocks of them. ``tiles: [2, 10]`` cuts large pictures
    into as many, by the folder's image processor, with a view of all of it, at its own shape, behind them (LFM2-VL);
    ``tiles: quarters`` every picture into four, each of which is then brought to its size by itself (Idefics2).
    ``model``: a folder or hub id of such a tower (Pixtral, SigLIP 2 NaFlex), or of a published model that has one.
    """

    gives_final = True
    processor: NativeProcessor
    host_inputs = ("grids", "counts", "pictures")

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = (-2,),
        longest: int | None = None,
        least: int | None = None,
        most: int | None = None,
        merge: int = 1,
        tiles: Sequence[int] | Literal["quarters"] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(layers=layers)
        self.vision = load_vision(model, native=True)
        self.tower = tower_kind(model, self.vision.config)(self.vision)
        if self.tower.packs:
            register()
            self.vision.set_attn_implementation(ATTENTION)
        self.dim = self.tower.dim
        limits = Limits(longest, least, most, merge)
        self.processor = native_processor(patching(model, self.vision.config, limits), tiles, max_pixels)
        self.resolve(self.n_blocks)
        self.freeze()

    vision: PreTrainedModel

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the tower."""
        return len(self.tower.blocks)

    def forward(self, **inputs: Tensor) -> Features:
        """``patches`` float[sum of P, C] and ``grids`` int64[N, axes] -> layers float[N, most P, D], raster order.

        Zeros stand behind the patches of smaller pictures. With ``counts`` int64[N] an item is so many pictures, one
        behind the other, whose grids are ``extras["pictures"]`` int64[N, most, 2], -1 behind them.
        """
        weight = next(self.parameters())
        patches = inputs["patches"].to(device=weight.device, dtype=weight.dtype)
        grids: list[Grid] = [tuple(grid) for grid in inputs["grids"].tolist()]
        lengths = lengths_of(grids)
        mask = real_tokens(lengths, patches.device)
        counts: list[int] = inputs["counts"].tolist() if "counts" in inputs else [1] * len(grids)
        layout = TokenLayout(tuple(counts), (max(lengths),), 0, mask)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout):
            states = recorded(
                self.tower.blocks,
                self.resolve(self.n_blocks),
                lambda: self.tower.run(patches, grids),
                self.tower.norm,
            )
            rows = [self.tower.in_raster_order(state.reshape(-1, state.shape[-1]), grids) for state in states]
            if "counts" in inputs:
                lengths = [int(sum(part)) for part in torch.tensor(lengths).split(counts)]
                mask = real_tokens(lengths, patches.device)
            padded = [pad_sequence(list(row.split(lengths)), batch_first=True) for row in rows]
        layers = dict(zip(self.layers, padded, strict=True))
        extras = {}
        if "counts" in inputs:
            pictures = inputs["grids"].split(counts)
            extras["pictures"] = pad_sequence(list(pictures), batch_first=True, padding_value=-1)
            grids = [(length,) for length in lengths]
        return Features(layers, mask, max(grids, key=prod), tuple(grids) if len(set(grids)) > 1 else None, extras)

    def hook_points(self) -> BlockHooks:
        """Its blocks; a row is one picture's patches in the order of its tower, and its layout has one axis."""
        blocks = list(self.tower.blocks)
        EncoderBlock.of(blocks[0])
        return BlockHooks(blocks, self.dim, self.scope, packed=True)


def native_processor(found: Patching, tiles: Sequence[int] | str | None, max_pixels: int) -> NativeProcessor:
    """What reads pictures: whole, or in tiles."""
    if tiles is None:
        return NativeProcessor(found, max_pixels=max_pixels)
    return NativeTilesProcessor(found, tiles, max_pixels=max_pixels)


def tower_kind(model: str, config: Any) -> type[Tower]:
    """How the tower with this configuration is run; MmllmError where it is none of native resolution."""
    if config.model_type not in TOWERS:
        raise MmllmError(
            f'"{model}": a tower of the kind {config.model_type} does not take pictures of any size here; known are '
            f"{', '.join(TOWERS)}. Towers of fixed size are for hf_vision."
        )
    return TOWERS[config.model_type]


def patching(model: str, config: Any, limits: Limits) -> Patching:
    """How pictures are cut for the tower with this configuration, by the image processor of the folder ``model``."""
    return tower_kind(model, config).patching(config, load_processor(AutoImageProcessor, model, "a picture"), limits)
