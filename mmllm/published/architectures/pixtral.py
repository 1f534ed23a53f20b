"""Pixtral (Agrawal et al. 2024, arXiv 2410.07073): pictures at their own size, a token between rows of patches."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """A layer or several of the tower for each patch, and ``mlp``.

    Raises:
        MmllmError: the first patch of all pictures is dropped, as if it were a class token.
    """
    config = source.config
    if config.vision_feature_select_strategy != "full":
        raise MmllmError(
            f"{source.path} ({source.family.name}) drops the first patch (vision_feature_select_strategy: "
            f"{config.vision_feature_select_strategy}), but a Pixtral tower has no class token there; its config "
            "should say full"
        )
    return native(source, 1)


def native(source: Source, merge: int) -> Sections:
    """Encoder and connector of a Pixtral tower whose tokens stand in rows; ``merge`` patches a side become one."""
    layers = source.config.vision_feature_layer
    encoder: dict[str, Any] = {
        "type": "hf_native",
        "model": source.path,
        "layers": [layers] if isinstance(layers, int) else list(layers),
    }
    if merge > 1:
        encoder["merge"] = merge
    processor = source.processor
    text = {
        "token": source.token(source.config.image_token_id),
        "around": ["", processor.image_end_token],
        "rows": processor.image_break_token,
    }
    return Sections(
        {"image": encoder}, {"image": {**projector_words(source.path, source.config), "from": "image", **text}}
    )
