"""LLaVA 1.5 (Liu et al. 2023, arXiv 2310.03744): a vision tower's patches through two linear layers.

Pixtral (Agrawal et al. 2024, arXiv 2410.07073) is of the same class, with a tower for pictures of any size.
"""

from __future__ import annotations

from mmllm.errors import MmllmError
from mmllm.published.architectures import pixtral
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer or several of any tower of fixed size, and ``mlp``.

    Raises:
        MmllmError: the class token is kept, or the projector is of another kind.
    """
    config = source.config
    if config.vision_config.model_type == "pixtral":
        return pixtral.sections(source)
    layers = config.vision_feature_layer
    if config.vision_feature_select_strategy == "full" and hasattr(config.vision_config, "projection_dim"):
        # CLIP's towers have a class token in front of the patches; SigLIP's have none, so nothing is to be dropped
        raise MmllmError(
            f"{source.path} ({source.family.name}) gives its LLM the tower's class token as well "
            "(vision_feature_select_strategy: full), and encoders here give patches alone"
        )
    projector = projector_words(source.path, config)
    crop = bool(getattr(source.pictures, "do_center_crop", False))
    fit = "crop" if crop else "pad" if getattr(source.pictures, "do_pad", False) else "squash"
    return Sections(
        {
            "image": {
                "type": "hf_vision",
                "model": source.path,
                "layers": [layers] if isinstance(layers, int) else list(layers),
                "fit": fit,
            }
        },
        {"image": {**projector, "from": "image", "token": source.token(config.image_token_id)}},
    )
