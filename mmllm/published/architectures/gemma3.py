"""Gemma 3 (Gemma Team 2025, arXiv 2503.19786): SigLIP's normed patches averaged to a grid, whose tokens see each other."""

from __future__ import annotations

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's own output and ``pool``; a picture's tokens between those of its beginning and end, bidirectional.

    Raises:
        MmllmError: its processor cuts long pictures into crops.
    """
    if source.tiles and source.processor.images_kwargs["do_pan_and_scan"]:
        raise MmllmError(
            f"{source.path} ({source.family.name}) adds crops to long pictures (do_pan_and_scan), which nothing here "
            "does; import it with --no-tiles, which leaves pictures whole, as the model does by default"
        )
    begin, end = source.tokenizer.boi_token, source.tokenizer.eoi_token
    # its template writes the token of the beginning for a picture, and its processor the rest around it
    places = {"token": begin, "around": [f"\n\n{begin}", f"{end}\n\n"], "attends": "bidirectional"}
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    return Sections({"image": encoder}, {"image": {**words, "from": "image", **places}})
