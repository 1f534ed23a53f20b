"""Projectors under llama.cpp's names: ``mlp``, ``internvl`` (a pixel shuffle) and Gemma 3's pooling."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.exporting.gguf.text_model import unfit
from mmllm.exporting.gguf.towers import GELU_LAYERS, Tower

LAYER_NORM_EPS = 1e-5
"""Of the norm in front of InternVL's projector; llama.cpp knows no other."""


@dataclass(frozen=True)
class Projection:
    """What llama.cpp is told of a projector."""

    kind: str
    """``clip.projector_type``."""
    tensors: Mapping[str, Tensor]
    last: str
    """Start of the names of its last layer's tensors."""
    around: tuple[str, str] = ("", "")
    """Text that llama.cpp puts in front of a picture and behind it."""
    causal: bool = True
    """Whether the LLM reads a picture's tokens one after the other; else all of them see each other."""
    resample: str = "bicubic"
    """How it resizes pictures."""
    squashes: bool = True
    """Whether it can be told to bring pictures to a square as ``fit: squash`` does; else it adds black borders."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """More keys behind ``clip.vision.``."""


def projection_of(key: str, connector: Any, tower: Tower, encoder: Encoder) -> Projection:
    """The projector of a run.

    Args:
        key: of the connector.
        connector: itself.
        tower: whose features it takes.
        encoder: of the tower; the order of its layers is that of the features.

    Raises:
        MmllmError: llama.cpp has none that computes it.
    """
    kinds: Mapping[type[Projector], Callable[..., Projection]] = {
        MlpConnector: _mlp, PixelShuffleConnector: _pixel_shuffle, PoolConnector: _pool
    }  # fmt: skip
    make = kinds.get(type(connector))
    if make is None:
        known = "mlp, pixel_shuffle (InternVL) and pool (Gemma 3)"
        raise unfit(f"its projectors are known here for {known}, and connectors.{key} is {type(connector).__name__}")
    return make(key, connector, tower, encoder)


def _mlp(key: str, connector: MlpConnector, tower: Tower, encoder: Encoder) -> Projection:
    if isinstance(connector.norm, nn.LayerNorm) and tower.has_class:
        return _internvl(key, connector.norm, connector.mlp, tower, 1)
    if not isinstance(connector.norm, nn.Identity):
        raise unfit(
            "its mlp has no norm, or a LayerNorm behind a tower with a class token (InternVL's), and "
            f"connectors.{key} has another"
        )
    first, second = _two(key, connector.mlp)
    columns = _columns(encoder, tower, first)
    return Projection("mlp", {**_named("mm.0", first, columns), **_named("mm.2", second)}, "mm.2.")


def _pixel_shuffle(key: str, connector: PixelShuffleConnector, tower: Tower, encoder: Encoder) -> Projection:
    norm = connector.mlp[0]
    if isinstance(norm, nn.Identity) and len(connector.mlp) == 2:
        raise unfit(
            f"a pixel shuffle with one layer, as connectors.{key}, is its idefics3, which cuts every picture into "
            "tiles, with black borders where it does not fill them, and shows it whole behind them; no encoder here "
            "does the same"
        )
    if connector.axes != 2 or connector.norm_first or not isinstance(norm, nn.LayerNorm):
        raise unfit(
            f"its pixel shuffle is InternVL's (a LayerNorm of the block, then two layers), and connectors.{key} has "
            "another norm or axes"
        )
    if not tower.has_class:
        raise unfit(f"its pixel shuffle stands behind towers with a class token, and that of connectors.{key} has none")
    rows, columns = connector.block
    if rows != columns:
        raise unfit(f"its pixel shuffle has square blocks, and connectors.{key} has {rows} x {columns}")
    return _internvl(key, norm, connector.mlp[1:], tower, rows)


def _internvl(key: str, norm: nn.LayerNorm, layers: nn.Sequential, tower: Tower, factor: int) -> Projection:
    if abs(norm.eps - LAYER_NORM_EPS) > 1e-9 or norm.bias is None:
        raise unfit(f"the norm of its InternVL has an eps of {LAYER_NORM_EPS} and a bias, and connectors.{key} another")
    _one_layer(key, tower)
    first, second = _two(key, layers)
    tensors = {
        "mm.model.mlp.0.weight": norm.weight,
        "mm.model.mlp.0.bias": norm.bias,
        **_named("mm.model.mlp.1", first),
        **_named("mm.model.mlp.3", second),
    }
    numbers = {"projector.scale_factor": factor, "preproc_min_tiles": 0, "preproc_max_tiles": 0}
    return Projection("internvl", tensors, "mm.model.mlp.3.", ("<img>", "</img>"), numbers=numbers)


def _pool(key: str, connector: PoolConnector, tower: Tower, encoder: Encoder) -> Projection:
    norm, layer = connector.norm, connector.mlp[0]
    side = tower.size // tower.patch
    grid = connector.out_grid((side, side))
    normed = isinstance(norm, nn.RMSNorm) and connector.norm_after
    plain = len(connector.mlp) == 1 and isinstance(layer, nn.Linear) and layer.bias is None
    if not normed or not plain or len(grid) != 2 or grid[0] != grid[1] or side % grid[0]:
        raise unfit(
            "its pooling is Gemma 3's (a square grid, an RMSNorm behind it, one layer without a bias), and "
            f"connectors.{key} is another"
        )
    assert isinstance(norm, nn.RMSNorm) and isinstance(layer, nn.Linear)
    if norm.eps is None or abs(norm.eps - tower.eps) > 1e-9:
        raise unfit(f"its pooling has a norm with the tower's eps ({tower.eps}), and connectors.{key} has {norm.eps}")
    if tower.has_class:
        raise unfit(f"its pooling stands behind towers without a class token, and connectors.{key} behind one with it")
    _one_layer(key, tower)
    tensors = {"mm.soft_emb_norm.weight": norm.weight, "mm.input_projection.weight": layer.weight.T}
    return Projection(
        "gemma3",
        tensors,
        "mm.input_projection.",
        ("<start_of_image>", "<end_of_image>"),
        causal=False,
        resample="bilinear",
        squashes=False,
        numbers={"projector.scale_factor": side // grid[0]},
    )


def _two(key: str, layers: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of an MLP with GELU between."""
    found = [layer for layer in layers if isinstance(layer, nn.Linear)]
    between = [layer for layer in layers if not isinstance(layer, nn.Linear)]
    if len(found) != 2 or len(between) != 1 or not isinstance(between[0], GELU_LAYERS):
        raise unfit(f"its projector is two layers with GELU between, and connectors.{key} is not")
    return found[0], found[1]


def _named(name: str, layer: nn.Linear, columns: Tensor | None = None) -> dict[str, Tensor]:
    """Weight and bias of a layer; without one a bias of zeros, which llama.cpp's file must have."""
    weight = layer.weight if columns is None else layer.weight[:, columns]
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _columns(encoder: Encoder, tower: Tower, layer: nn.Linear) -> Tensor | None:
    """Order of the first layer's columns where features of several layers stand in another order than they rise."""
    blocks = len(encoder.blocks)  # type: ignore[arg-type]
    numbers = [blocks if one == "final" else int(one) for one in encoder.resolve(blocks)]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    if order == list(range(len(numbers))):
        return None
    starts = [n * tower.width for n in order]
    return torch.tensor(list(itertools.chain.from_iterable(range(at, at + tower.width) for at in starts)))


def _one_layer(key: str, tower: Tower) -> None:
    if len(tower.layers) > 1:
        raise unfit(f"only its mlp takes features of several layers, and connectors.{key} takes {len(tower.layers)}")
