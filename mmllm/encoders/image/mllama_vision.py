"""The ``mllama_vision`` encoder: Llama 3.2 Vision's tower, which reads all tiles of a picture as one sequence."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from mmllm.encoders.base import Encoder
from mmllm.encoders.pretrained import BROKEN, load_processor, refused
from mmllm.processors.canvas import CanvasProcessor
from mmllm.processors.image import MAX_PIXELS
from mmllm.types import Features
from mmllm.vlms.tower import load_own_tower

KIND = "mllama_vision_model"


class MllamaVisionEncoder(Encoder):
    """The tower of a Llama 3.2 Vision folder (Grattafiori et al. 2024, arXiv 2407.21783).

    A picture is fitted onto the canvas of 1 to 4 tiles that it has to grow least for, and cut by the folder's own image
    processor. The tower always reads as many tiles as it was made for, in one sequence, and its real tokens see the
    empty ones: so the grid is (tiles, 1, tokens) for every picture, class token of each tile first, and
    ``Features.extras["shown"]`` int64[N] says how many of the tokens, from the first on, are of tiles that the picture
    fills. Layer ``final`` is the tower's output, the last state beside those inner ones that the model was trained
    with, as wide as all of them; it gives no others.
    """

    processor: CanvasProcessor
    gives_final = True

    def __init__(self, *, model: str, max_pixels: int = MAX_PIXELS) -> None:
        """Load the tower.

        Args:
            model: folder or hub id of the whole model.
            max_pixels: limit on width x height of a picture, checked before it is decoded.

        Raises:
            MmllmError: it cannot be loaded, or is another model.
        """
        super().__init__(layers=("final",))
        try:
            self.vision = load_own_tower(model, KIND)
        except BROKEN as error:
            raise refused(model, "a vision model", error) from error
        config = self.vision.config
        self.dim = int(config.vision_output_dim)
        self.tokens = (config.image_size // config.patch_size) ** 2 + 1
        own = load_processor(AutoImageProcessor, model, "a picture")
        self.processor = CanvasProcessor(own, most=config.max_num_tiles, tokens=self.tokens, max_pixels=max_pixels)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """``pixels`` float[N, tiles, 3, H, W], ``aspect`` and ``tiles`` int64[N] -> float[N, tiles * tokens, D]."""
        weight = next(self.parameters())
        pixels = inputs["pixels"].to(device=weight.device, dtype=weight.dtype)
        tiles = inputs["tiles"].to(weight.device)
        real = torch.arange(pixels.shape[1], device=weight.device) < tiles[:, None]
        with torch.set_grad_enabled(self.learns()):
            found: Tensor = self.vision(
                pixel_values=pixels[:, None],
                aspect_ratio_ids=inputs["aspect"].to(weight.device)[:, None],
                aspect_ratio_mask=real.long()[:, None],
            ).last_hidden_state
        states = found.flatten(1, 3)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        extras = {"shown": tiles * self.tokens}
        return Features({"final": states}, mask, self.processor.fixed_grid(), None, extras)
