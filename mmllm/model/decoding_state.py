"""State of conversations being continued, between ``MultimodalLM.prefill`` and ``decode``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mmllm.hooks import ForwardContext


@dataclass(frozen=True)
class DecodingState:
    """B conversations being continued at once, each in a row of its own, padded on the left."""

    ctx: ForwardContext
    """Context of the last pass."""
    attention_mask: torch.Tensor
    """bool[B, S_total], True at real tokens of all that was fed so far."""
    cache: Any
    """Keys and values of what was fed; grows in place, so a state is decoded from once."""
    logits: torch.Tensor
    """float[B, V], of what each row says next."""
