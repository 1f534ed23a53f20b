"""Gemma 3 (Gemma Team 2025, arXiv 2503.19786): SigLIP's patches averaged to tokens that see each other."""

from __future__ import annotations

from typing import Any

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

CROPS = ("pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops", "pan_and_scan_min_ratio_to_activate")


def sections(source: Source) -> Sections:
    """The tower's own output and ``pool``; a picture's tokens between those of its beginning and end, bidirectional.

    Where the folder's image processor has ``do_pan_and_scan``, long pictures are cut by its numbers. Its processor
    (transformers 5.23) does that only in a call that asks for it, and then by the class's numbers where the call gives
    none; so the comparison's calls give all of them.
    """
    begin, end = source.tokenizer.boi_token, source.tokenizer.eoi_token
    # its template writes the token of the beginning for a picture, and its processor the rest around it
    places: dict[str, Any] = {"token": begin, "around": [f"\n\n{begin}", f"{end}\n\n"], "attends": "bidirectional"}
    encoder: dict[str, Any] = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    asked: dict[str, Any] = {}
    if source.tiles and source.pictures.do_pan_and_scan:
        asked = {"do_pan_and_scan": True, **{word: _number(source, word) for word in CROPS}}
        shortest, most, ratio = (asked[word] for word in CROPS)
        cut = {"most": most, "shortest": shortest, "ratio": ratio}
        encoder = {"type": "tiles", "rule": "pan_and_scan", **cut, "image": encoder}
        places["tiles"] = {
            "front": "Here is the original image ",
            "viewed": f"{end}\n\n and here are some crops to help you see better ",
            "tile": f"\n\n{begin}",
            "col": f"{end}\n\n ",
            "row": f"{end}\n\n ",
        }
    words = projector_words(source.path, source.config)
    return Sections({"image": encoder}, {"image": {**words, "from": "image", **places}}, words=asked)


def _number(source: Source, word: str) -> Any:
    """Of the folder's image processor; where it has none, of the class of its processor."""
    own = getattr(source.pictures, word)
    return type(source.processor).images_kwargs[word] if own is None else own
