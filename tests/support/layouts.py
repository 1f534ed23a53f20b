"""What encoders make of media, and what they tell the hooks in their blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.hooks import EncoderContext, TokenLayout
from mmllm.types import Features


def features_of(encoder: Encoder, *media: Any) -> Features:
    """Features of these items in one batch."""
    return encoder(**encoder.processor.collate([encoder.processor.read(one) for one in media]))


def layout_of(encoder: Encoder, inputs: dict[str, Tensor]) -> TokenLayout:
    """Layout of the pass over collated ``inputs``, as a hook in the first block is told of it."""
    seen: list[TokenLayout] = []

    def look(ctx: EncoderContext, x: Tensor) -> Tensor:
        assert ctx.layout is not None and x.shape[0] == sum(ctx.layout.rows)
        seen.append(ctx.layout)
        return x

    handle = encoder.hook_points().before_block(0, look)
    encoder(**inputs)
    handle.remove()
    (layout,) = seen
    return layout
