"""A frozen linear layer whose weights are int8 and whose arithmetic is not; ``quantisation.py`` puts it into an LLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class Int8Linear(nn.Linear):
    """``y = (x Q^T) s + b``: int8 weights Q with one scale s for each output, activations as they come.

    Rounded values are exact in every floating type, so nothing but the weights is rounded. What a pass keeps for its
    backward is Q itself: a product with a converted copy would keep the copy, layer by layer as much as the whole model
    unquantised.
    """

    scale: Tensor
    """float32[out], width of a rounding step."""

    @classmethod
    def of(cls, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Self:
        """From ``weight`` int8[out, in], ``scale`` float32[out] and ``bias`` float[out]."""
        layer = cls(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = bias  # type: ignore[assignment]
        layer.register_buffer("scale", scale)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """float[..., in] -> float[..., out] of the same type."""
        product: Tensor = _Product.apply(input, self.weight, self.scale)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Cast or move, but let the scales stay in float32: DeepSpeed casts whole models."""
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        return self


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        if x.dtype == torch.float16:  # sums of unscaled products would leave its range
            return x @ _scaled(weight, scale, x.dtype).T
        return (x @ weight.to(x.dtype).T) * scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        if grad.dtype == torch.float16:
            return grad @ _scaled(weight, scale, grad.dtype), None, None
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None


def _scaled(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).mul_(scale[:, None])
