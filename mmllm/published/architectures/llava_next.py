"""LLaVA-NeXT and LLaVA-NeXT-Video: tiles by a list of resolutions, stitched behind the projector; frames pooled."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.architectures.llava import frames, patches, projector
from mmllm.published.source import Sections, Source


def sections(source: Source) -> Sections:
    """LLaVA's tower on every tile, ``mlp``, and one map of the tiles with a newline behind each row.

    Clips of LLaVA-NeXT-Video: ``pool`` of each frame, then the same ``mlp``.

    Raises:
        MmllmError: pictures are to be taken whole, configuration and image processor cut them differently, or frames
            are pooled as none here pools.
    """
    encoders = {"image": tiles(source)}
    connectors = {"image": {**projector(source), "stitch": {"newline": "row"}}}
    if source.config.model_type == "llava_next_video":
        encoders["video"] = frames(source)
        connectors["video"] = _pooled(source)
    return Sections(encoders, connectors)


def _pooled(source: Source) -> dict[str, Any]:
    """The connector of clips; MmllmError where its tokens are not what its own processor announces."""
    config, processor = source.config, source.processor
    by = {"average": "mean", "max": "max"}.get(config.spatial_pool_mode)
    if by is None:
        raise MmllmError(
            f"{source.path} ({source.family.name}) pools its frames by {config.spatial_pool_mode}, with weights that "
            "no connector here has; average and max are taken"
        )
    stride = config.spatial_pool_stride
    side = config.vision_config.image_size // config.vision_config.patch_size
    if stride != 2 or side % 2:
        raise MmllmError(
            f"{source.path}: {type(processor).__name__} announces a quarter of a frame's {side} x {side} patches "
            f"whatever spatial_pool_stride is, and with {stride} there are {(side // stride) ** 2} of {side * side}, "
            "so no clip fits into its text; it takes an even side, and 2"
        )
    token = source.token(config.video_token_id)
    words = {**projector(source), "type": "pool", "stride": [stride, stride], "shares": "image", "from": "video"}
    return {**words, "token": token, **({} if by == "mean" else {"by": by})}


def tiles(source: Source) -> dict[str, Any]:
    """The encoder; MmllmError as :func:`sections`."""
    if not source.tiles:
        raise MmllmError(
            f"{source.path} ({source.family.name}) always cuts pictures, so there is nothing of its own to compare "
            "whole ones with; leave --no-tiles out"
        )
    counted, cut = ([list(one) for one in lists.image_grid_pinpoints] for lists in (source.config, source.pictures))
    if counted != cut:
        raise MmllmError(
            f"{source.path}: image_grid_pinpoints of its configuration ({_short(counted)}) are not those of its image "
            f"processor ({_short(cut)}), so pictures would be cut one way and counted another; make them the same"
        )
    return {"type": "tiles", "rule": "resolutions", "resolutions": cut, "image": {**patches(source), "fit": "own"}}


def _short(lists: list[list[int]]) -> str:
    return ", ".join(map(str, lists[:4])) + (f" and {len(lists) - 4} more" if len(lists) > 4 else "")
