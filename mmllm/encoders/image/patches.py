"""The ``patches`` encoder: pixels themselves are the features, no model sees them first."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.encoders.base import Encoder
from mmllm.encoders.masks import real_tokens
from mmllm.errors import MmllmError
from mmllm.processors.image import MAX_PIXELS
from mmllm.processors.native.pixels import Edge, Order, PixelPatching, Resample
from mmllm.processors.native.processor import NativeProcessor
from mmllm.types import Features, Grid


class PatchesEncoder(Encoder):
    """Pictures of any size as the pixels of their patches; it has no weights, the connector learns all.

    The grid is (rows, cols), the width 3 * ``patch`` ** 2. The defaults are those of Fuyu (Adept 2023): never enlarged,
    shrunk to ``longest`` pixels ([height, width]; one number for both), edges padded with the grey ``fill``, scaled to
    -1..1; ``{type: mlp, depth: 1}`` is its projector, and the connector's word ``rows`` its token between rows. With
    ``patch: 48, longest: null, least: 280, most: 280, edge: stretch, resample: bicubic, mean: [0], std: [1]`` they are
    those of Gemma 4 unified: every picture as large as 280 patches allow. ``least`` and ``most`` are areas in patches;
    with ``edge: stretch`` a picture has ``most`` patches at most. A patch is (row, column, channel) or ``order:
    channel_row_col``; values are (value / 255 - ``mean``) / ``std``, one number or three.
    """

    processor: NativeProcessor
    host_inputs = ("grids",)

    def __init__(
        self,
        *,
        patch: int = 30,
        longest: int | Sequence[int] | None = (1080, 1920),
        least: int | None = None,
        most: int | None = None,
        edge: Edge = "pad",
        fill: float = 1.0,
        order: Order = "row_col_channel",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        resample: Resample = "bilinear",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(layers=(0,))
        patching = pixel_patching(
            patch, longest, least, most, edge=edge, fill=fill, order=order, mean=mean, std=std, resample=resample
        )
        self.dim = patching.channels
        self.processor = NativeProcessor(patching, max_pixels=max_pixels)
        # what says where features are wanted and in which dtype, as weights do elsewhere
        self.register_buffer("like", torch.empty(0), persistent=False)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """``patches`` float[sum of P, D] and ``grids`` int64[N, 2] -> their one layer float[N, most P, D]."""
        patches = inputs["patches"].to(self.get_buffer("like"))
        grids: list[Grid] = [tuple(grid) for grid in inputs["grids"].tolist()]
        lengths = [prod(grid) for grid in grids]
        padded = pad_sequence(list(patches.split(lengths)), batch_first=True)
        mask = real_tokens(lengths, patches.device)
        return Features({0: padded}, mask, max(grids, key=prod), tuple(grids) if len(set(grids)) > 1 else None)


def pixel_patching(
    patch: int,
    longest: int | Sequence[int] | None,
    least: int | None,
    most: int | None,
    *,
    edge: Edge,
    fill: float,
    order: Order,
    mean: Sequence[float],
    std: Sequence[float],
    resample: Resample,
) -> PixelPatching:
    """How pictures are cut by the words of the encoder; MmllmError for one that cannot be."""
    sides = (longest, longest) if isinstance(longest, int) else None if longest is None else tuple(longest)
    if sides is not None and len(sides) != 2:
        raise MmllmError(f"longest: {list(sides)} must be one number, or a height and a width.")
    return PixelPatching(
        patch,
        sides,
        least,
        most,
        edge=edge,
        fill=float(fill),
        order=order,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        resample=resample,
    )
