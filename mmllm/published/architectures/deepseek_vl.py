"""DeepSeek-VL (Lu et al. 2024, arXiv 2403.05525): SigLIP's normed patches through two linear layers.

With two towers Segment Anything's patches stand beside them.
"""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's own output, a token for each patch, and ``mlp``; pictures as its own processor pads them.

    Of two towers ``concat``: what the model makes of the one for large pictures is that encoder's ``final``.
    """
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    token = source.token(source.config.image_token_id)
    words = projector_words(source.path, source.config)
    if source.config.model_type == "deepseek_vl":
        return Sections({"image": encoder}, {"image": {**words, "from": "image", "token": token}})
    high = {"type": "hf_sam", "model": source.path, "layers": ["final"]}
    return Sections({"high": high, "image": encoder}, {"image": {**words, "from": ["high", "image"], "token": token}})
