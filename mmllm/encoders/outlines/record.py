"""What is known of an encoder without its weights."""

from __future__ import annotations

from dataclasses import dataclass

from mmllm.processors.base import Processor


@dataclass(frozen=True)
class Outline:
    """The part of an encoder that needs no weights."""

    processor: Processor
    """Reads its media exactly as the encoder's own does."""
    dim: int
    """D, the width of one layer."""
    n_layers: int
    """Layers asked for."""
