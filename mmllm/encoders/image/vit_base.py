"""Base of image encoders: hidden states of patches, class and register tokens dropped.

Between ``base.py`` (any modality) and the files that load a model of a library (``open_clip.py``, ``hf_vision.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.image import ImageProcessor
from mmllm.types import Features, Layer


class ImageEncoder(Encoder):
    """A vision transformer over patches. Its ``forward`` takes ``pixels``: float[N, 3, H, W], normalised."""

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
        """``pixels`` float[N, 3, H, W] -> layers of float[N, rows * cols, D] in raster order."""
        pixels = inputs["pixels"]
        with self.laid_out(TokenLayout((1,) * len(pixels), self.processor.grid(inputs), self.prefix)):
            return self.features(pixels, self.layers)

    def features(self, pixels: Tensor, layers: Sequence[Layer]) -> Features:
        """Features of these layers, as ``forward`` gives them; the caller says what the rows are (:meth:`laid_out`)."""
        weight = next(self.parameters())
        pixels = pixels.to(device=weight.device, dtype=weight.dtype)
        grid = self.processor.grid({"pixels": pixels})
        # Frozen weights build no graph; a stage that trains this encoder or what is inside it gets one.
        with torch.set_grad_enabled(self.learns()):
            states = self.hidden(pixels, self.resolve(self.n_blocks, layers))
        tokens = self.prefix + grid[0] * grid[1]
        # else patches would be shifted by a token without a word
        if any(state.shape[1] != tokens for state in states):
            raise MmllmError(
                f"the encoder gives {states[0].shape[1]} tokens for {pixels.shape[-2]} x {pixels.shape[-1]} pixels, "
                f"but declares {self.prefix} prefix tokens and {grid[0]} x {grid[1]} patches; it is not supported."
            )
        mask = torch.ones(pixels.shape[0], grid[0] * grid[1], dtype=torch.bool, device=pixels.device)
        return Features(dict(zip(layers, (s[:, self.prefix :] for s in states), strict=True)), mask, grid)
