"""InternVL in the form of transformers (Chen et al. 2024, arXiv 2404.16821): its ViT, pixel shuffle, two layers."""

from __future__ import annotations

from typing import Any

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer of the tower for every tile and the whole picture, and ``pixel_shuffle``; a token at start and end.

    Clips: the same for each frame, with its number in front.
    """
    layer = source.config.vision_feature_layer
    # -1 means the tower's own output there, which is normed where it is not pooled
    encoder: dict[str, Any] = {
        "type": "hf_vision",
        "model": source.path,
        "layers": ["final" if layer == -1 else layer],
        "fit": "own",
    }
    clip = {"type": "frames", "fit": "own", "image": dict(encoder), **source.sampling()}
    if source.tiles:  # its processor cuts whatever its image processor says of itself
        least, most = source.pictures.min_patches, source.pictures.max_patches
        encoder = {"type": "tiles", "rule": "closest_ratio", "least": least, "most": most, "image": encoder}
    tokens = source.tokenizer
    begin, end = tokens.start_image_token, tokens.end_image_token
    words = projector_words(source.path, source.config)
    picture = {**words, "from": "image", "token": source.token(source.config.image_token_id), "around": [begin, end]}
    steps = {"step": f"Frame{{n}}: {begin}", "between": f"{end}\n"}
    video = {**words, "shares": "image", "from": "video", "token": tokens.video_token, "steps": steps}
    return Sections({"image": encoder, "video": clip}, {"image": picture, "video": {**video, "around": ["", end]}})
