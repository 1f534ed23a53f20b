"""Aya Vision (Cohere 2025, arXiv 2505.08751): SigLIP on tiles, pixel shuffle and a gated MLP, a text for each tile."""

from __future__ import annotations

from typing import Any

from mmllm.published.architectures.llava import patches
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer of the tower for every tile and the whole picture, and ``pixel_shuffle``.

    Its template writes a token that its vocabulary may lack and its processor replaces; a run's writes that of patches.

    Raises:
        MmllmError: the class token is kept, or the projector is of another kind.
    """
    encoder: dict[str, Any] = {**patches(source), "fit": "own"}
    processor = source.processor
    whole = processor.tile_global_token
    connector: dict[str, Any] = {
        **projector_words(source.path, source.config),
        "from": "image",
        "token": processor.img_patch_token,
        "around": [processor.start_of_img_token, processor.end_of_img_token],
    }
    if source.tiles:  # its processor cuts whatever its image processor says of itself
        least, most = source.pictures.min_patches, source.pictures.max_patches
        encoder = {"type": "tiles", "rule": "closest_ratio", "least": least, "most": most, "image": encoder}
        connector["tiles"] = {"tile": processor.tile_token + "_{n}", "whole": whole, "alone": whole}
    else:
        connector["around"][0] += whole
    picture, patch = processor.image_token, processor.img_patch_token
    return Sections(
        {"image": encoder}, {"image": connector}, rewrites=lambda template: template.replace(picture, patch)
    )
