"""Gemma 3 (Gemma Team 2025, arXiv 2503.19786): SigLIP's patches averaged to tokens that see each other."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's own output and ``pool``; a picture's tokens between those of its beginning and end, bidirectional.

    Pictures are whole also where the folder's image processor has ``do_pan_and_scan``: its processor (transformers
    5.23) switches that off in every call that does not ask for crops itself.
    """
    begin, end = source.tokenizer.boi_token, source.tokenizer.eoi_token
    # its template writes the token of the beginning for a picture, and its processor the rest around it
    places = {"token": begin, "around": [f"\n\n{begin}", f"{end}\n\n"], "attends": "bidirectional"}
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    return Sections({"image": encoder}, {"image": {**words, "from": "image", **places}})
