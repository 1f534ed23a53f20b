"""Several layers of one encoder, each for itself: for connectors that do more than lay them side by side."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from mmllm.errors import MmllmError
from mmllm.types import Features


def normed(features: Features) -> Features:
    """Bring each layer to mean 0 and variance 1 over its width, per token; nothing learned."""
    layers = {index: functional.layer_norm(layer, layer.shape[-1:]) for index, layer in features.layers.items()}
    return replace(features, layers=layers)


def listed(features: Features, n_layers: int, name: str) -> list[Tensor]:
    """Layers float[N, T, D] in the order listed in the recipe.

    Raises:
        MmllmError: the encoder gives another number than the connector ``name`` was told.
    """
    layers = list(features.layers.values())
    if len(layers) != n_layers:
        raise MmllmError(
            f"connector {name} layers: {n_layers}, but the encoder gives {len(layers)} ({list(features.layers)}); "
            "write as many as its own `layers` lists."
        )
    return layers
