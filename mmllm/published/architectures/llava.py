"""LLaVA 1.5 (Liu et al. 2023, arXiv 2310.03744): a vision tower's tokens through two linear layers.

Pixtral (Agrawal et al. 2024, arXiv 2410.07073) is of the same class, with a tower for pictures of any size.
"""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.architectures import pixtral
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer or several of any tower of fixed size, with or without its class token, and ``mlp``.

    Raises:
        MmllmError: the projector is of another kind.
    """
    if source.config.vision_config.model_type == "pixtral":
        return pixtral.sections(source)
    crop = bool(getattr(source.pictures, "do_center_crop", False))
    fit = "crop" if crop else "pad" if getattr(source.pictures, "do_pad", False) else "squash"
    return Sections({"image": {**patches(source, class_token=True), "fit": fit}}, {"image": projector(source)})


def patches(source: Source, class_token: bool = False) -> dict[str, Any]:
    """The tower's layers, all patches of them; ``class_token``: and the token in front of them, where the model has it.

    Raises:
        MmllmError: it has it, and it is not to be taken.
    """
    config = source.config
    layers = config.vision_feature_layer
    # CLIP's towers have a class token in front of the patches; SigLIP's have none, so nothing is to be dropped
    has_class = hasattr(config.vision_config, "projection_dim")
    keeps = config.vision_feature_select_strategy == "full" and has_class
    if keeps and not class_token:
        raise MmllmError(
            f"{source.path} ({source.family.name}) gives its LLM the tower's class token as well "
            "(vision_feature_select_strategy: full), and maps of tiles here are made of patches alone"
        )
    layers = [layers] if isinstance(layers, int) else list(layers)
    return {"type": "hf_vision", "model": source.path, "layers": layers, **({"keep": "all"} if keeps else {})}


def frames(source: Source, class_token: bool = False) -> dict[str, Any]:
    """The encoder of clips: the same layers of each frame, as the folder's video processor prepares it."""
    return {"type": "frames", "fit": "own", "image": patches(source, class_token), **source.sampling()}


def projector(source: Source) -> dict[str, Any]:
    """The connector, and the LLM's token of a picture."""
    token = source.token(source.config.image_token_id)
    return {**projector_words(source.path, source.config), "from": "image", "token": token}
