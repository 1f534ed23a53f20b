"""The ``hf_sam`` encoder: Segment Anything's image encoder, of a folder of SAM or of a DeepSeek-VL with two towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, SamVisionModel

from mmllm.encoders.base import Encoder
from mmllm.encoders.image.sam.high_resolution import HighResolution
from mmllm.encoders.pretrained import BROKEN, load_processor, refused
from mmllm.encoders.recording import Blocks, recorded
from mmllm.errors import MmllmError
from mmllm.processors.image import MAX_PIXELS, ImageProcessor
from mmllm.processors.own_pixels import OwnPixels
from mmllm.types import Features
from mmllm.vlms.partial import load_part

HYBRID = "deepseek_vl_hybrid"
NAMES = {r"^(model\.)?high_res_vision_model\.": ""}


class HfSamEncoder(Encoder):
    """The ViT of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643): many patches, most blocks see windows only.

    Layers are states of blocks, on its grid of patches (64 x 64 of 1024 pixels). ``final`` is what leaves its neck, two
    convolutions, and is of another width, so it stands alone. ``model``: a folder or hub id of SAM; or of a DeepSeek-VL
    with two towers (Lu et al. 2024, arXiv 2403.05525), where ``final`` is what that model makes of this tower: fewer
    patches, as many as its other one gives. Pixels are those of the folder's own image processor.
    """

    gives_final = True
    final_alone = True
    processor: ImageProcessor

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = ("final",),
        max_pixels: int = MAX_PIXELS,
        draft: bool = False,
    ) -> None:
        super().__init__(layers=layers)
        try:
            config = AutoConfig.from_pretrained(model)
            tower = sam_config(model, config)
            self.vision = load_part(model, SamVisionModel, tower, NAMES, torch.float32)
            self.high = HighResolution.load(model, config) if config.model_type == HYBRID else None
        except BROKEN as error:
            raise refused(model, "an image encoder of Segment Anything", error) from error
        self.dim = sam_dim(config, tower, self.layers)
        self.processor = sam_processor(model, config, tower, self.layers, max_pixels, draft)
        self.resolve(self.n_blocks)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks."""
        return int(self.vision.config.num_hidden_layers)

    @property
    def blocks(self) -> Blocks:
        """The list of them."""
        found = self.vision.vision_encoder.layers
        assert isinstance(found, torch.nn.ModuleList)
        return found

    def forward(self, **inputs: Tensor) -> Features:
        """``pixels`` float[N, 3, H, W] -> layers of float[N, rows * cols, D] in raster order."""
        weight = next(self.parameters())
        pixels = inputs["pixels"].to(device=weight.device, dtype=weight.dtype)

        def run() -> Tensor:
            last: Tensor = self.vision(pixel_values=pixels).last_hidden_state
            return last

        with torch.set_grad_enabled(self.learns()):
            if "final" in self.layers:
                found = [self._final(run)]
            else:
                found = [state.flatten(1, 2) for state in recorded(self.blocks, self.resolve(self.n_blocks), run)]
        grid = self.processor.fixed_grid()
        mask = torch.ones(len(pixels), grid[0] * grid[1], dtype=torch.bool, device=pixels.device)
        return Features(dict(zip(self.layers, found, strict=True)), mask, grid)

    def _final(self, run: Any) -> Tensor:
        """float[N, T, D] of the neck, or of what the whole model puts behind it."""
        inner = self.n_blocks if self.high is None else self.high.layer
        state, last = recorded(self.blocks, (inner, self.n_blocks), run)
        output: Tensor = self.vision.vision_encoder.neck(last)
        return output.flatten(2).transpose(1, 2) if self.high is None else self.high(state, output)


def sam_config(model: str, config: Any) -> Any:
    """The tower's configuration in that of a folder; MmllmError where it has none."""
    if config.model_type == HYBRID:
        return config.high_res_vision_config
    if config.model_type == "sam":
        return config.vision_config
    if config.model_type == "sam_vision_model":
        return config
    raise MmllmError(
        f'"{model}" is a {config.model_type}, which has no image encoder of Segment Anything; give a SAM, or a '
        "DeepSeek-VL with two towers."
    )


def sam_dim(config: Any, tower: Any, layers: Sequence[int | str]) -> int:
    """Width of a layer."""
    if "final" not in layers:
        return int(tower.hidden_size)
    # two convolutions that double the channels follow
    return int(tower.output_channels) * (4 if config.model_type == HYBRID else 1)


def sam_processor(
    model: str, config: Any, tower: Any, layers: Sequence[int | str], max_pixels: int, draft: bool
) -> ImageProcessor:
    """What reads its pictures, whose grid is that of what it gives."""
    own = load_processor(AutoImageProcessor, model, "a picture")
    side, patch = int(tower.image_size), int(tower.patch_size)
    if config.model_type == HYBRID and "final" in layers:
        low = config.vision_config
        n = low.image_size // low.patch_size
        patch = side // n
        if side // patch != n:
            raise MmllmError(f'"{model}": {n} patches a side of {side} pixels are not supported.')
    output = "high_res_pixel_values" if config.model_type == HYBRID else "pixel_values"
    transform = OwnPixels(own, (side, side), output)
    return ImageProcessor(transform, size=(side, side), patch=(patch, patch), max_pixels=max_pixels, draft=draft)
