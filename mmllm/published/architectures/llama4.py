"""Llama 4 (Meta 2025): its own tower on tiles that keep a picture's shape, pixel shuffle and three layers."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's normed patches of every tile and of the whole picture, and ``pixel_shuffle``.

    Raises:
        MmllmError: its processor counts other tokens than its model makes, or enlarges pictures as far as tiles go.
    """
    tower, processor, pictures = source.config.vision_config, source.processor, source.pictures
    counted = (processor.patch_size, processor.downsample_ratio)
    factor = round(1 / tower.pixel_shuffle_ratio)
    why = None
    if counted != (tower.patch_size, factor**2):
        why = f"has patches of {tower.patch_size} pixels, {factor**2} of them a token, and its processor counts "
        why += f"{counted[0]} and {counted[1]}; mend patch_size and pixel_shuffle_ratio in processor_config.json"
    elif pictures.resize_to_max_canvas:
        why = "enlarges pictures as far as tiles go (resize_to_max_canvas: true), which no encoder here does"
    if why is not None:
        raise MmllmError(f"{source.path} ({source.family.name}) {why}")
    image: dict[str, Any] = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    most = pictures.max_patches if source.tiles else 1
    connector: dict[str, Any] = {
        **projector_words(source.path, source.config),
        "from": "image",
        "token": processor.image_token,
        "around": ["<|image_start|>", "<|image_end|>"],
        "tiles": {
            "col": "<|tile_x_separator|>",
            "row": "<|tile_y_separator|>",
            "whole": processor.image_token,
            "alone": processor.image_token,
        },
    }
    return Sections({"image": {"type": "tiles", "rule": "canvas", "most": most, "image": image}}, {"image": connector})
