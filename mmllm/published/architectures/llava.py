"""LLaVA 1.5 (Liu et al. 2023, arXiv 2310.03744): a vision tower's tokens through two linear layers.

Pixtral (Agrawal et al. 2024, arXiv 2410.07073) is of the same class, with a tower for pictures of any size.
"""

from __future__ import annotations

from mmllm.published.architectures import pixtral
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer or several of any tower of fixed size, with or without its class token, and ``mlp``.

    Raises:
        MmllmError: the projector is of another kind.
    """
    config = source.config
    if config.vision_config.model_type == "pixtral":
        return pixtral.sections(source)
    layers = config.vision_feature_layer
    projector = projector_words(source.path, config)
    crop = bool(getattr(source.pictures, "do_center_crop", False))
    whole = {"keep": "all"} if config.vision_feature_select_strategy == "full" else {}
    fit = "crop" if crop else "pad" if getattr(source.pictures, "do_pad", False) else "squash"
    return Sections(
        {
            "image": {
                "type": "hf_vision",
                "model": source.path,
                "layers": [layers] if isinstance(layers, int) else list(layers),
                "fit": fit,
                **whole,
            }
        },
        {"image": {**projector, "from": "image", "token": source.token(config.image_token_id)}},
    )
