"""Idefics3 (Laurencon et al. 2024, arXiv 2408.12637) and SmolVLM: SigLIP, blocks of patches side by side, one layer."""

from __future__ import annotations

from typing import Any

from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

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


CLIP = {
    "begin": "You are provided the following series of {words} frames from a {duration} [H:MM:SS] video.\n",
    "step": "\nFrame from {minutes:02d}:{seconds:02d}:" + FAKE + GLOBAL,
    "between": FAKE,
}
"""What SmolVLM's processor writes between the frames of a clip, and in front of them."""
EITHER = (
    "{% set clips = namespace(shown=false) %}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{% set clips.shown = true %}{% endif %}{% endfor %}{% endfor %}"
    "{% if clips.shown %}CLIPS{% else %}PLAIN{% endif %}"
)
"""A conversation with a clip is written by another template, whatever the folder's is."""


def sections(source: Source) -> Sections:
    """The tower's normed patches of every tile and of the whole picture, and ``pixel_shuffle``.

    Clips of a SmolVLM whose processor takes them: the same of each frame, with its time in front.
    """
    encoder: dict[str, Any] = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    connector = {**words, "from": "image", "token": source.token(source.config.image_token_id)}
    clip = {"type": "frames", "fit": "own", "image": dict(encoder)}
    if source.tiles and source.pictures.do_image_splitting:
        longest = source.pictures.size["longest_edge"]
        encoder = {"type": "tiles", "rule": "longest_side", "longest": longest, "image": encoder}
        connector |= {"around": ["", FAKE], "tiles": TEXT}
    else:
        connector |= {"around": [FAKE + GLOBAL, FAKE]}
    if not hasattr(source.processor, "video_processor"):
        return Sections({"image": encoder}, {"image": connector})
    video = {**words, "shares": "image", "from": "video", "token": source.processor.video_token}
    video |= {"steps": CLIP, "around": ["", f"{FAKE}\n\n"]}
    return Sections(
        {"image": encoder, "video": {**clip, **source.sampling()}},
        {"image": connector, "video": video},
        rewrites=lambda template: EITHER.replace("CLIPS", DEFAULT_CHAT_TEMPLATE).replace("PLAIN", template),
    )
