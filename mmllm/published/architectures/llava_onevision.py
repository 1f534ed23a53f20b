"""LLaVA-OneVision (Li et al. 2024, arXiv 2408.03326): as LLaVA-NeXT, large maps shrunk, several whole; clips."""

from __future__ import annotations

import re

from mmllm.errors import MmllmError
from mmllm.published.architectures.llava import frames, projector
from mmllm.published.architectures.llava_next import tiles
from mmllm.published.source import Sections, Source


def sections(source: Source) -> Sections:
    """SigLIP on every tile, ``mlp``, and one map of the tiles; several pictures of a conversation are not cut.

    Clips: the same ``mlp`` on each frame, whose map is then resized to half (bilinear); one newline ends them.

    Raises:
        MmllmError: as LLaVA-NeXT's, or its largest map is not said, or said in two ways.
    """
    counted, made = source.processor.vision_aspect_ratio, source.config.vision_aspect_ratio
    found = re.fullmatch(r"anyres_max_(\d+)", made)
    if found is None or counted != made:
        raise MmllmError(
            f"{source.path}: vision_aspect_ratio of its configuration ({made}) and of its processor ({counted}) must "
            "be the same anyres_max_N, N being the tiles that the largest map is as large as"
        )
    stitch = {"newline": "row", "most": int(found[1])}
    mlp = projector(source)
    halved = {**mlp, "type": "pool", "stride": [2, 2], "by": "bilinear", "pool_last": True}
    token = source.token(source.config.video_token_id)
    clip = {**halved, "shares": "image", "from": "video", "token": token, "stitch": {"newline": "end", "unpad": False}}
    return Sections(
        {"image": {**tiles(source), "several": "whole"}, "video": frames(source)},
        {"image": {**mlp, "stitch": stitch}, "video": clip},
    )
