"""The bottleneck of serial and parallel adapters, and how it is put into an LLM's blocks.

Shared by ``series_adapter`` and ``parallel_adapter``; works inside the LLM, between the embeddings and the LM head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmllm.connectors.base import Connector
from mmllm.connectors.layers.basics import is_noop
from mmllm.errors import MmllmError

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

    def skip_if_zero(self) -> None:
        """Skip the update while it is frozen and zero, as in a stage before the one that trains it."""
        self.idle = is_noop(self.up.weight, self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D], in the dtype of ``x``; computed in float32."""
        inner = self.dropout(self.activation(self.down(x.to(self.down.weight.dtype))))
        return (self.up(inner) * self.scale).to(x.dtype)


class BottleneckConnector(Connector):
    """Base of the adapters: keeps one :class:`Bottleneck` per chosen block and place, named ``<block>-<place>``."""

    identity_at_start = True

    def __init__(
        self,
        *,
        llm_dim: int,
        name: str,
        width: int,
        activation: str,
        scale: float,
        dropout: float,
        blocks: Sequence[int] | None,
    ) -> None:
        """Set up, without weights until ``attach``; ``name`` is the type in the recipe, for errors."""
        super().__init__(llm_dim=llm_dim)
        if width < 1 or not 0 <= dropout < 1:
            raise MmllmError(f"{name}: width {width} must be >= 1 and dropout {dropout} in [0, 1).")
        if activation not in ACTIVATIONS:
            raise MmllmError(f"{name}: activation {activation!r} is unknown; known: {', '.join(ACTIVATIONS)}.")
        self.name = name
        self.width = width
        self.activation = activation
        self.scale = scale
        self.dropout = dropout
        self.chosen = None if blocks is None else list(blocks)
        self.layers = nn.ModuleDict()

    def blocks_of(self, llm: Any) -> list[int]:
        """Block indices to work in: all, or those of the recipe.

        Raises:
            MmllmError: a block the LLM has not, or one named twice.
        """
        if self.chosen is None:
            return list(range(llm.n_blocks))
        wrong = [block for block in self.chosen if not 0 <= block < llm.n_blocks]
        if wrong or len(set(self.chosen)) < len(self.chosen) or not self.chosen:
            raise MmllmError(
                f"{self.name}: blocks {self.chosen} must be different numbers from 0 to {llm.n_blocks - 1}, the blocks "
                "of this LLM, and at least one."
            )
        return self.chosen

    def bottleneck(self, llm: Any, block: int, place: str) -> Bottleneck:
        """The one of a place, made if it is not there yet, on the LLM's device and in float32."""
        key = f"{block}-{place}"
        if key not in self.layers:
            made = Bottleneck(llm.hidden_dim, self.width, self.activation, self.scale, self.dropout)
            self.layers[key] = made.to(llm.device)
        layer = self.layers[key]
        assert isinstance(layer, Bottleneck)
        return layer

    def skip_if_zero(self) -> None:
        """Find out which updates may be skipped; to be called whenever weights were loaded or (un)frozen."""
        for layer in self.layers.values():
            assert isinstance(layer, Bottleneck)
            layer.skip_if_zero()
