"""DeepSeek-VL (Lu et al. 2024, arXiv 2403.05525) with one tower: SigLIP's normed patches through two linear layers."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's own output, a token for each patch, and ``mlp``; pictures as its own processor pads them."""
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    token = source.token(source.config.image_token_id)
    return Sections(
        {"image": encoder}, {"image": {**projector_words(source.path, source.config), "from": "image", "token": token}}
    )
