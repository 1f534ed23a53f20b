"""Idefics3 (Laurencon et al. 2024, arXiv 2408.12637) and SmolVLM: SigLIP, blocks of patches side by side, one layer."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"


def sections(source: Source) -> Sections:
    """The tower's normed patches and ``pixel_shuffle``; a picture in one piece is announced as its global view.

    Raises:
        MmllmError: pictures are to be cut into tiles.
    """
    source.whole()
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    places = {"token": source.token(source.config.image_token_id), "around": [FAKE + GLOBAL, FAKE]}
    return Sections({"image": encoder}, {"image": {**words, "from": "image", **places}})
