"""LFM2-VL (Liquid AI 2025, arXiv 2511.23404): SigLIP 2 at a picture's own shape, large ones in tiles; pixel shuffle."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's normed patches of every tile and of the whole picture, and ``pixel_shuffle``.

    Raises:
        MmllmError: its processor counts other tokens than its model makes, or leaves a step out.
    """
    pictures, processor = source.pictures, source.processor
    _check(source)
    encoder: dict[str, Any] = {"type": "hf_native", "model": source.path, "layers": ["final"]}
    connector: dict[str, Any] = {
        **projector_words(source.path, source.config),
        "from": "image",
        "token": source.token(source.config.image_token_id),
    }
    special = processor.use_image_special_tokens
    if special:
        connector["around"] = [processor.image_start_token, processor.image_end_token]
    if source.tiles and pictures.do_image_splitting:
        encoder["tiles"] = [pictures.min_tiles, pictures.max_tiles]
        if special:
            connector["tiles"] = {"tile": "<|img_row_{row}_col_{col}|>", "whole": processor.image_thumbnail_token}
    return Sections({"image": encoder}, {"image": connector})


def _check(source: Source) -> None:
    """MmllmError for settings of the image processor that cannot be taken."""
    own, config = source.pictures, source.config
    why = None
    if own.downsample_factor != config.downsample_factor:
        why = f"merges {config.downsample_factor} patches a side, its image processor counts {own.downsample_factor}"
    elif not (own.do_rescale and own.do_normalize and own.do_pad):
        why = "has an image processor that leaves out a step (do_rescale, do_normalize, do_pad)"
    elif source.tiles and own.do_image_splitting and not own.use_thumbnail:
        why = "cuts pictures without a view of all of them (use_thumbnail: false), which no encoder here does; import "
        why += "it with pictures whole: --no-tiles"
    elif source.tiles and own.do_image_splitting and own.min_tiles < 2:
        why = "may cut a picture into one tile (min_tiles: 1), for which its processor counts other tokens than there "
        why += "are; import it with pictures whole: --no-tiles"
    if why is not None:
        raise MmllmError(f"{source.path} ({source.family.name}) {why}")
