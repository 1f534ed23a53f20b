"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL up to their mergers, which are connectors here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from mmllm.encoders.image.native.tower import Tower
from mmllm.encoders.recording import Blocks
from mmllm.processors.native.clips import ClipPatching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.processors.native.qwen import QwenPatching, raster
from mmllm.processors.native.qwen_clips import Qwen3Clips, QwenClips
from mmllm.types import Grid


class Qwen2Tower(Tower):
    """Qwen2-VL's (Wang et al. 2024, arXiv 2409.12191): rotary rows and columns, no norm behind the blocks.

    Patches lie block by block of those that are merged. ``final`` is layer -1.
    """

    # its attention takes the bounds of pictures by itself
    packs = False

    def __init__(self, vision: Any) -> None:
        super().__init__(vision)
        # a connector computes it: here it would only take memory, and end in a shape of its own
        vision.merger = nn.Identity()

    @classmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """As its image processor cuts."""
        return QwenPatching.of(own, config, limits)

    @classmethod
    def clips(cls, config: Any, own: Any, limits: Limits) -> ClipPatching:
        """As its video processor cuts."""
        return QwenClips.of(own, config, limits)

    @classmethod
    def width(cls, config: Any) -> int:
        """D; ``hidden_size`` is the LLM's there."""
        return int(config.embed_dim)

    @property
    def blocks(self) -> Blocks:
        """Its blocks."""
        blocks = self.vision.blocks
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def run(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """float[sum of P, D]; not yet in raster order, see :meth:`in_raster_order`."""
        thw = _with_time(grids)
        last: Tensor = self.vision(patches, grid_thw=thw, **self._places(thw, patches.device)).last_hidden_state
        return last

    def _places(self, thw: Tensor, device: torch.device) -> dict[str, Tensor]:
        """What the model would make of ``thw`` on its device: made here, the bounds of pictures stay with the host."""
        places = get_vision_position_ids(thw, self.vision.spatial_merge_size)
        return {"position_ids": places.to(device, non_blocking=True)}

    def in_raster_order(self, states: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Out of the blocks that are merged."""
        return raster(states, grids, self.vision.spatial_merge_size)


class Qwen25Tower(Qwen2Tower):
    """Qwen2.5-VL's (Bai et al. 2025, arXiv 2502.13923): most blocks attend within windows, the others everywhere."""

    @classmethod
    def width(cls, config: Any) -> int:
        """D."""
        return int(config.hidden_size)

    def in_raster_order(self, states: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Out of the windows, then out of the blocks that are merged."""
        vision, merge = self.vision, self.vision.spatial_merge_size
        order, _ = get_vision_window_index(
            _with_time(grids), spatial_merge_size=merge, window_size=vision.window_size, patch_size=vision.patch_size
        )
        blocks = states.unflatten(0, (-1, merge**2))[torch.argsort(order).to(states.device)]
        return super().in_raster_order(blocks.flatten(0, 1), grids)


class Qwen3Tower(Qwen2Tower):
    """Qwen3-VL's (Qwen team 2025): a table of positions resampled to each picture, and no windows."""

    def __init__(self, vision: Any) -> None:
        super().__init__(vision)
        # projectors of inner layers: connectors compute them of the layers that they ask for
        vision.deepstack_visual_indexes, vision.deepstack_merger_list = [], nn.ModuleList()

    @classmethod
    def clips(cls, config: Any, own: Any, limits: Limits) -> ClipPatching:
        """As its video processor cuts."""
        return Qwen3Clips.of(own, config, limits)

    @classmethod
    def width(cls, config: Any) -> int:
        """D."""
        return int(config.hidden_size)

    def _places(self, thw: Tensor, device: torch.device) -> dict[str, Tensor]:
        """With places and weights in the table of positions."""
        vision = self.vision
        places, weights = get_vision_interpolation_indices_and_weights(
            thw, num_grid_per_side=vision.num_grid_per_side, mode=vision.interpolation_mode,
            align_corners=vision.interpolation_align_corners, spatial_merge_size=vision.spatial_merge_size,
        )  # fmt: skip
        table = {"interp_indices": places, "interp_weights": weights}
        moved = {name: one.to(device, non_blocking=True) for name, one in table.items()}
        return super()._places(thw, device) | moved


def _with_time(grids: Sequence[Grid]) -> Tensor:
    """int64[N, 3] on the host: (time, rows, cols) of each; a picture is one step."""
    return torch.tensor([(1, *grid)[-3:] for grid in grids])
