"""Small pieces that many connectors share: MLPs, widths of layers, grids as maps, updates that may be skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from mmllm.errors import MmllmError
from mmllm.registry import nearest

CALIBRATED = "calibrated"
"""Word of a recipe's ``norm``."""
LEAST_SPREAD = 0.1
"""Smallest spread of a channel that counts, as a share of the median one."""
ROUNDING = 1e-6
"""Spread of a normed channel up to which items do not differ in it."""


def module_key(name: str) -> str:
    """Key in a ``ModuleDict`` for a layer of the LLM: a module's name may hold no dot."""
    return name.replace(".", "-")


def in_out_features(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2's Conv1D holds its weight transposed."""
    if isinstance(linear, Conv1D):
        return int(linear.nx), int(linear.nf)
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features


def is_noop(*tensors: Any) -> bool:
    """Whether an update that is zero where these are may be skipped: all frozen, and zero, as before its own stage."""
    return not any(one.requires_grad or unseen(one) or bool(one.any()) for one in tensors)


def unseen(tensor: Any) -> bool:
    """Whether this process cannot look at a tensor's numbers."""
    # under ZeRO-3 (`ds_id`) a rank sees only its shard; a model that is laid out to be planned has no numbers at all
    return hasattr(tensor, "ds_id") or tensor.is_meta or isinstance(tensor, FakeTensor)


class Softmax(nn.Module):
    """Shares of one over the channels, float[..., D]."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x.softmax(-1)


class HardSoftmax(nn.Module):
    """One at the largest channel and zero elsewhere, with the gradient of the softmax (straight through)."""

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D], the same shape."""
        soft = x.softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard - soft.detach() + soft


OVER_CHANNELS: Mapping[str, type[nn.Module]] = {"softmax": Softmax, "hard_softmax": HardSoftmax}


def activation_of(name: str) -> nn.Module:
    """The activation that transformers calls so (``gelu``, ``gelu_pytorch_tanh``, ``silu``, ...), or one over all
    channels: ``softmax``, ``hard_softmax``.

    Raises:
        MmllmError: it has none of that name.
    """
    if name in OVER_CHANNELS:
        return OVER_CHANNELS[name]()
    if name not in ACT2FN:
        known = [*ACT2FN, *OVER_CHANNELS]
        near = nearest(name, known)
        hint = f'; did you mean "{near}"?' if near else "."
        raise MmllmError(f'activation: "{name}" is unknown; known: {", ".join(known)}{hint}')
    made: nn.Module = ACT2FN[name]
    return made


class CalibratedNorm(nn.LayerNorm):
    """LayerNorm whose gain and bias are set from items before they learn, so that every channel that leaves it has mean
    0 and deviation 1 between items.

    Pretrained features hold some channels that are large everywhere and say nothing; a plain LayerNorm keeps them so.
    ``training/computed_starts.py`` calls :meth:`calibrate` before a run's first step. Gain and bias are weights like
    any other: they learn and are in the checkpoint.
    """

    @torch.no_grad()
    def calibrate(self, rows: Sequence[Tensor]) -> None:
        """Set gain and bias from what it was given for each of N items, float[T, dim] each.

        Where all have as many tokens, deviations are those between items at the same token: what all items have there
        is no difference between them.
        """
        normed = [functional.layer_norm(row.float(), self.normalized_shape, eps=self.eps) for row in rows]
        if len({len(row) for row in normed}) == 1:
            stacked = torch.stack(normed)
            mean, around = stacked.mean((0, 1)), stacked - stacked.mean(0)
        else:
            joined = torch.cat(normed)
            mean, around = joined.mean(0), joined - joined.mean(0)
        spread = around.square().flatten(0, -2).mean(0).sqrt()
        differing = spread[spread > ROUNDING]
        if not len(differing):
            raise MmllmError("norm: calibrated: the items that it is set from are all alike; it needs different ones.")
        # a channel that hardly differs between these items would be noise, blown up
        spread = spread.clamp(min=LEAST_SPREAD * float(differing.median()))
        self.weight.copy_(1 / spread)
        self.bias.copy_(-mean / spread)


def norm_of(kind: bool | str, dim: int, eps: float) -> nn.Module:
    """``true`` or ``layer``: LayerNorm; ``rms``: RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467); ``calibrated``:
    :class:`CalibratedNorm`; ``false``: none.

    Raises:
        MmllmError: another word.
    """
    if kind is False:
        return nn.Identity()
    if kind in (True, "layer"):
        return nn.LayerNorm(dim, eps=eps)
    if kind == "rms":
        return nn.RMSNorm(dim, eps=eps)
    if kind == CALIBRATED:
        return CalibratedNorm(dim, eps=eps)
    raise MmllmError(f'norm: "{kind}" is unknown; known: true or layer (LayerNorm), rms, calibrated, false.')


class Gated(nn.Module):
    """The first half of the channels times the activated second half (SwiGLU with silu; Shazeer 2020, 2002.05202)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """float[..., 2 C] -> float[..., C]."""
        first, second = x.chunk(2, dim=-1)
        return self.activation(second) * first


def mlp(
    dim: int,
    llm_dim: int,
    depth: int,
    activation: str = "gelu",
    width: int | None = None,
    bias: bool = True,
    gated: bool = False,
    inner_norm: bool = False,
) -> nn.Sequential:
    """``depth`` linear layers with an activation between, the inner ones ``width`` wide (None: as the LLM).

    ``gated``: between them stands :class:`Gated`, and half as many channels go on. ``inner_norm``: in front of it
    stands a LayerNorm.
    """
    if depth < 1:
        raise MmllmError(f"depth: {depth} must be at least 1 (number of linear layers).")
    if width is not None and width < 1:
        raise MmllmError(f"width: {width} must be at least 1 (channels between the linear layers).")
    sizes = [dim, *[llm_dim if width is None else width] * (depth - 1), llm_dim]
    if gated and (depth < 2 or sizes[1] % 2):
        raise MmllmError(f"gated: needs a depth of at least 2 (found {depth}) and an even width (found {sizes[1]}).")
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1], bias=bias)]
    for one, other in pairwise(sizes[1:]):
        between = activation_of(activation)
        layers += [nn.LayerNorm(one)] if inner_norm else []
        layers += [Gated(between) if gated else between, nn.Linear(one // 2 if gated else one, other, bias=bias)]
    return nn.Sequential(*layers)


def feed_forward(width: int, bias: bool = False) -> nn.Sequential:
    """LN, four times wider and back with GELU; without biases as the perceiver resampler has it."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=bias), nn.GELU(), nn.Linear(4 * width, width, bias=bias)
    )


def as_maps(grid: Sequence[int], name: str) -> tuple[int, int, int]:
    """(maps, rows, cols) of a grid (..., rows, cols): time or tiles in front are maps of their own."""
    if len(grid) < 2:
        raise MmllmError(f"connector {name} needs a grid of rows and columns; this encoder gives {tuple(grid)}.")
    return prod(grid[:-2]), grid[-2], grid[-1]


def pair(values: Sequence[int], what: str) -> tuple[int, int]:
    """(rows, cols) of a recipe's ``[rows, cols]``, both at least 1."""
    if len(values) != 2 or min(values) < 1:
        raise MmllmError(f"{what}: {list(values)} must be [rows, cols], both at least 1.")
    return values[0], values[1]
