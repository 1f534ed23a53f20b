"""The bottleneck that adapters inside LLMs and inside encoders share: down, activation, up."""

from __future__ import annotations

from torch import Tensor, nn

from mmllm.connectors.layers.basics import is_noop

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
"""Word of the recipe -> module."""


class Bottleneck(nn.Module):
    """``scale * up(dropout(activation(down(x))))``, both with bias; zero at the start, because ``up`` is.

    Exactly one factor is zero (``down`` is drawn): with both at zero neither would ever move.
    """

    def __init__(self, dim: int, width: int, activation: str, scale: float = 1.0, dropout: float = 0.0) -> None:
        """``dim`` of the states, ``width`` of the bottleneck."""
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.scale = scale
        self.idle = False
        """Whether the update is frozen and zero, so that nobody need compute it."""

    def skip_if_zero(self) -> None:
        """Skip the update while it is frozen and zero, as in a stage before the one that trains it."""
        self.idle = is_noop(self.up.weight, self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D], in the dtype of ``x``; computed in float32."""
        inner = self.dropout(self.activation(self.down(x.to(self.down.weight.dtype))))
        return (self.up(inner) * self.scale).to(x.dtype)
