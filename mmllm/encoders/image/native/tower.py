"""How one kind of tower runs packed patches: one subclass for each, in a file of its own; ``hf_native.py`` calls it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.recording import Blocks
from mmllm.errors import MmllmError
from mmllm.processors.native.clips import ClipPatching
from mmllm.processors.native.processor import Limits, Patching
from mmllm.types import Grid


class Tower(ABC):
    """A vision model of transformers that takes the patches of several pictures in one row.

    It calls the model's own modules, which the encoder holds; it has no weights of its own. Axes of a grid are those
    of the :class:`~mmllm.processors.native.processor.Patching` that belongs to it: (rows, cols), or more where a kind
    has time in front.
    """

    packs: bool = True
    """Whether its blocks run under ``attention.ATTENTION``, the items' bounds standing where a mask would."""

    def __init__(self, vision: Any) -> None:
        """``vision``: the loaded model, or a shell of it without weights."""
        self.vision = vision

    @classmethod
    @abstractmethod
    def patching(cls, config: Any, own: Any, limits: Limits) -> Patching:
        """How pictures are brought to its patches.

        Args:
            config: of the tower.
            own: image processor of its folder.
            limits: of the recipe.

        Raises:
            MmllmError: the image processor has no such limits, or is another tower's.
        """

    @classmethod
    def clips(cls, config: Any, own: Any, limits: Limits) -> ClipPatching:
        """How clips are brought to its patches, by the video processor ``own`` of its folder; as :meth:`patching`.

        Raises:
            MmllmError: it sees pictures alone.
        """
        raise MmllmError(
            f"a tower of the kind {config.model_type} sees pictures alone; use another encoder and frames."
        )

    @property
    @abstractmethod
    def blocks(self) -> Blocks:
        """The list of transformer blocks that the model runs through."""

    @property
    def norm(self) -> nn.Module | None:
        """What makes ``final`` of what :meth:`run` gives; None: nothing is left to do."""
        return None

    @classmethod
    def width(cls, config: Any) -> int:
        """D of the blocks of a tower with this configuration."""
        return int(config.hidden_size)

    @property
    def dim(self) -> int:
        """D of its blocks."""
        return self.width(self.vision.config)

    @abstractmethod
    def run(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Run all blocks on packed patches float[sum of P, C] of items with these grids: float[1, sum of P, D] or
        float[sum of P, D], items in order, each in raster order of its grid, as the last block left them.

        Each item's states depend on that item alone.
        """

    def in_raster_order(self, states: Tensor, grids: Sequence[Grid]) -> Tensor:
        """States float[sum of P, D] as blocks see them -> in raster order of each grid; here they are already."""
        return states


def places(grids: Sequence[Grid], device: torch.device | str) -> Tensor:
    """int64[sum of P, axes], place of each patch in its grid: (row, column); items in order, raster order."""
    found = torch.cat([torch.cartesian_prod(*(torch.arange(n) for n in grid)) for grid in grids])
    return found.to(device, non_blocking=True)


def lengths_of(grids: Sequence[Grid]) -> list[int]:
    """Patches of each item."""
    return [prod(grid) for grid in grids]
