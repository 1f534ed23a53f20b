"""Bytes that weights, gradients and optimizer take on one GPU under each ZeRO stage of DeepSpeed, by arithmetic.

ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054; what DeepSpeed keeps beside it is as read in 0.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmllm.llms.quantisation import WEIGHT_BYTES
from mmllm.model.model import MultimodalLM
from mmllm.planning.meter import nbytes
from mmllm.recipe.models import Stage
from mmllm.training.deepspeed_config import gathered_at_once

BUCKET = 500_000_000
"""Elements of DeepSpeed's buffer for gradients (``reduce_bucket_size``) where the recipe says nothing."""
_MASTER, _MOMENTS = 4, 8
"""Bytes of float32 masters and AdamW's two moments for a learning parameter."""


@dataclass(frozen=True)
class Sizes:
    """What a stage's model holds."""

    weights: int
    """Bytes of all parameters and buffers."""
    n_params: int
    n_learning: int
    element: int
    """Bytes of a learning parameter: 2 in bfloat16, 4 in float32."""

    @classmethod
    def of(cls, model: MultimodalLM, quantize: str | None = None) -> Sizes:
        """Of a model whose learning parameters are set, and whose LLM will be loaded so quantised."""
        parameters = list(model.parameters())
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        return cls(
            nbytes([*parameters, *model.buffers()]) - _saved(model, quantize),
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() for parameter in learning),
            max((parameter.element_size() for parameter in learning), default=4),
        )


def _saved(model: MultimodalLM, quantize: str | None) -> int:
    """Bytes that the linear layers of the LLM's blocks take less in 8 or 4 bits: they are laid out whole."""
    if quantize is None:
        return 0
    own = {id(parameter) for connector in model.connectors.values() for parameter in connector.parameters()}
    weights = [layer.weight for layer in model.llm.linears().values() if id(layer.weight) not in own]
    return int(sum(weight.numel() * (weight.element_size() - WEIGHT_BYTES[quantize]) for weight in weights))  # type: ignore


@dataclass(frozen=True)
class Held:
    """Bytes on one GPU through a whole stage."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    """DeepSpeed's own: the bucket of gradients, and with ZeRO-3 what is gathered at once."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.buffers


def held(sizes: Sizes, stage: Stage, zero: int, world: int, gpu: bool) -> Held:
    """What one of ``world`` ranks holds under ZeRO stage ``zero``; ``gpu``: its buffers are allocated whole."""
    n, unit = sizes.n_learning, sizes.element
    half = unit < _MASTER
    settings: Mapping[str, Any] = stage.deepspeed.get("zero_optimization", {})
    bucket = int(settings.get("reduce_bucket_size", BUCKET))
    if not gpu:
        bucket = min(bucket, n)  # pages of the CPU's memory that are never written to are never there
    share = world if zero or half else 1  # DeepSpeed's bfloat16 optimizer is split among ranks without ZeRO too
    optimizer = (_MOMENTS + (_MASTER if zero or half else 0)) * n // share
    if stage.offload != "none":
        optimizer = 0
    gradients = unit * n // (world if zero >= 2 else 1)
    if not zero:
        return Held(sizes.weights, gradients + (_MASTER * n if half else 0), optimizer, 0)
    if zero < 3:
        return Held(sizes.weights, gradients, optimizer, unit * bucket)
    per_parameter = sizes.weights / max(1, sizes.n_params)
    live = min(sizes.n_params, int(settings.get("stage3_max_live_parameters", gathered_at_once(sizes.n_params))))
    weights = 0 if stage.offload == "all" else sizes.weights // world
    return Held(weights, gradients, optimizer, unit * bucket + int(per_parameter * live))
