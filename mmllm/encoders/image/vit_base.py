"""Base of image encoders: hidden states of patches, class and register tokens dropped unless they are asked for.

Between ``base.py`` (any modality) and the files that load a model of a library (``open_clip.py``, ``hf_vision.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.image import ImageProcessor
from mmllm.types import Features, Layer

Keep = Literal["patches", "all"]
"""Tokens of a picture that an encoder gives: its patches, or the class and register tokens in front of them as well."""


def kept(keep: str, prefix: int) -> int:
    """How many of ``prefix`` tokens in front of the patches are given; MmllmError for a word that is none of ``Keep``.

    A model with none has nothing to keep, so both words say the same of it.
    """
    if keep not in get_args(Keep):
        raise MmllmError(f'keep: "{keep}" is unknown; known: {", ".join(get_args(Keep))}.')
    return prefix if keep == "all" else 0


class ImageEncoder(Encoder):
    """A vision transformer over patches. Its ``forward`` takes ``pixels``: float[N, 3, H, W], normalised.

    Where its processor has a ``prefix``, features are float[N, prefix + rows * cols, D] on the grid (1, that many).
    """

    processor: ImageProcessor

    def hidden(self, pixels: Tensor, wanted: Sequence[Layer]) -> list[Tensor]:
        """float[N, prefix + T, D] for each layer of 0..n_blocks or ``final`` (see ``Encoder``), prefix tokens first."""
        raise NotImplementedError

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the model."""
        raise NotImplementedError

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens in front of the patches, as the model itself declares them."""
        raise NotImplementedError

    def forward(self, **inputs: Tensor) -> Features:
        """``pixels`` float[N, 3, H, W] -> layers of float[N, T, D]: patches in raster order, behind what is kept."""
        pixels = inputs["pixels"]
        with self.laid_out(TokenLayout((1,) * len(pixels), self.processor.patches(pixels.shape), self.prefix)):
            return self.features(pixels, self.layers)

    def features(self, pixels: Tensor, layers: Sequence[Layer]) -> Features:
        """Features of these layers, as ``forward`` gives them; the caller says what the rows are (:meth:`laid_out`)."""
        weight = next(self.parameters())
        pixels = pixels.to(device=weight.device, dtype=weight.dtype)
        patches, grid = self.processor.patches(pixels.shape), self.processor.grid({"pixels": pixels})
        # Frozen weights build no graph; a stage that trains this encoder or what is inside it gets one.
        with torch.set_grad_enabled(self.learns()):
            states = self.hidden(pixels, self.resolve(self.n_blocks, layers))
        tokens = self.prefix + patches[0] * patches[1]
        # else patches would be shifted by a token without a word
        if any(state.shape[1] != tokens for state in states):
            raise MmllmError(
                f"the encoder gives {states[0].shape[1]} tokens for {pixels.shape[-2]} x {pixels.shape[-1]} pixels, "
                f"but declares {self.prefix} prefix tokens and {patches[0]} x {patches[1]} patches; it is not "
                "supported."
            )
        first = self.prefix - self.processor.prefix
        mask = torch.ones(pixels.shape[0], tokens - first, dtype=torch.bool, device=pixels.device)
        return Features(dict(zip(layers, (state[:, first:] for state in states), strict=True)), mask, grid)
