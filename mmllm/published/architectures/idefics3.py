"""Idefics3 (Laurencon et al. 2024, arXiv 2408.12637) and SmolVLM: SigLIP, blocks of patches side by side, one layer."""

from __future__ import annotations

from typing import Any

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"
TEXT = {
    "tile": FAKE + "<row_{row}_col_{col}>",
    "row": "\n",
    "whole": "\n" + FAKE + GLOBAL,
    "alone": FAKE + GLOBAL,
}
"""What its processor writes between the tiles of a picture."""


def sections(source: Source) -> Sections:
    """The tower's normed patches of every tile and of the whole picture, and ``pixel_shuffle``."""
    encoder: dict[str, Any] = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    connector = {**words, "from": "image", "token": source.token(source.config.image_token_id)}
    if source.tiles and source.pictures.do_image_splitting:
        longest = source.pictures.size["longest_edge"]
        encoder = {"type": "tiles", "rule": "longest_side", "longest": longest, "image": encoder}
        connector |= {"around": ["", FAKE], "tiles": TEXT}
    else:
        connector |= {"around": [FAKE + GLOBAL, FAKE]}
    return Sections({"image": encoder}, {"image": connector})
