"""Ovis 2 (Lu et al. 2024, arXiv 2405.20797): pictures as shares of a visual vocabulary, learned marks between tiles."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
"""Tokens that its processor writes, in the order of their embeddings; where there is a picture these are learned
vectors beside the table of text, so here they are no text."""


def sections(source: Source) -> Sections:
    """The tower's normed patches of the whole picture and of every tile, ``pixel_shuffle`` and the marks of ``stitch``.

    Its template writes a token that its processor replaces; a run's writes that of a picture's tokens.

    Raises:
        MmllmError: tiles by another rule, another order of marks, or another number of tokens than its model makes.
    """
    config, pictures, tower = source.config, source.pictures, source.config.vision_config
    marks = [source.token(number) for number in config.visual_indicator_token_ids]
    made = (tower.image_size // tower.patch_size // tower.hidden_stride) ** 2
    why = None
    if marks != list(MARKS):
        why = f"has the marks {', '.join(marks)}, and its processor writes {', '.join(MARKS)}, in this order"
    elif tower.image_size // tower.patch_size % tower.hidden_stride:
        why = (
            f"has {tower.image_size // tower.patch_size} patches a side and a hidden_stride of {tower.hidden_stride}, "
        )
        why += "which leaves a rest: the class of transformers 5.23 fails where it fills that"
    elif source.processor.image_seq_length != made:
        why = f"makes {made} tokens of a tile, and its processor counts {source.processor.image_seq_length}; mend "
        why += "image_seq_length in processor_config.json"
    elif source.tiles and pictures.crop_to_patches and not pictures.use_covering_area_grid:
        why = "cuts pictures by the closest ratio (use_covering_area_grid: false) with a view in front, which no "
        why += "encoder here does; import it with pictures whole: --no-tiles"
    if why is not None:
        raise MmllmError(f"{source.path} ({source.family.name}) {why}")
    most = pictures.max_patches if source.tiles and pictures.crop_to_patches else 1
    image = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    encoder: dict[str, Any] = {"type": "tiles", "rule": "covering", "most": most, "image": image}
    token, placed = source.token(config.image_token_id), source.processor.image_token
    connector: dict[str, Any] = {
        **projector_words(source.path, config),
        "from": "image",
        "token": token,
        "stitch": {"newline": "marks", "unpad": False},
    }
    return Sections({"image": encoder}, {"image": connector}, rewrites=lambda template: template.replace(placed, token))
