"""Mistral 3 (Mistral Small 3.1, 2025): Pixtral's tower, blocks of patches merged into one, a token between rows."""

from __future__ import annotations

from mmllm.errors import MmllmError
from mmllm.published.architectures.pixtral import native
from mmllm.published.source import Sections, Source


def sections(source: Source) -> Sections:
    """A layer of the tower, and ``patch_merger``.

    Raises:
        MmllmError: several layers, which its own projector cannot take, or a processor that merges otherwise.
    """
    config = source.config
    layers = config.vision_feature_layer
    if not isinstance(layers, int):
        raise MmllmError(
            f"{source.path} ({source.family.name}) names several layers ({list(layers)}), and the norm of its "
            "projector is as wide as one"
        )
    if source.processor.spatial_merge_size != config.spatial_merge_size:
        raise MmllmError(
            f"{source.path} ({source.family.name}) merges {config.spatial_merge_size} patches a side, its processor "
            f"counts {source.processor.spatial_merge_size}; mend spatial_merge_size in processor_config.json"
        )
    return native(source, config.spatial_merge_size)
