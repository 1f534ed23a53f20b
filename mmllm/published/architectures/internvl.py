"""InternVL in the form of transformers (Chen et al. 2024, arXiv 2404.16821): its ViT, pixel shuffle, two layers."""

from __future__ import annotations

from typing import Any

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer of the tower for every tile and the whole picture, and ``pixel_shuffle``; a token at start and end."""
    layer = source.config.vision_feature_layer
    # -1 means the tower's own output there, which is normed where it is not pooled
    encoder: dict[str, Any] = {
        "type": "hf_vision",
        "model": source.path,
        "layers": ["final" if layer == -1 else layer],
        "fit": "own",
    }
    if source.tiles:  # its processor cuts whatever its image processor says of itself
        least, most = source.pictures.min_patches, source.pictures.max_patches
        encoder = {"type": "tiles", "rule": "closest_ratio", "least": least, "most": most, "image": encoder}
    tokens = source.tokenizer
    places = {
        "token": source.token(source.config.image_token_id),
        "around": [tokens.start_image_token, tokens.end_image_token],
    }
    return Sections(
        {"image": encoder}, {"image": {**projector_words(source.path, source.config), "from": "image", **places}}
    )
