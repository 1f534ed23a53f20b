"""LLaVA-NeXT and the pictures of LLaVA-NeXT-Video: tiles by a list of resolutions, stitched behind the projector."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.architectures.llava import patches, projector
from mmllm.published.source import Sections, Source


def sections(source: Source) -> Sections:
    """LLaVA's tower on every tile, ``mlp``, and one map of the tiles with a newline behind each row.

    Raises:
        MmllmError: pictures are to be taken whole, or configuration and image processor cut them differently.
    """
    return Sections({"image": tiles(source)}, {"image": {**projector(source), "stitch": {"newline": "row"}}})


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
