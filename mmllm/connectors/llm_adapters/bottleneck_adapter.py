"""Bottlenecks in an LLM's blocks: the base of ``series_adapter`` and ``parallel_adapter``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mmllm.connectors.base import LLMAdapter
from mmllm.connectors.layers.bottleneck import ACTIVATIONS, Bottleneck
from mmllm.errors import MmllmError
from mmllm.hooks.points import LLMHookPoints


class BottleneckConnector(LLMAdapter):
    """Base of the adapters: keeps one :class:`Bottleneck` per chosen block and place, named ``<block>-<place>``."""

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    positionwise = shares_prefix = True

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
        """Set up, without weights until ``attach``; ``name`` is the type in the recipe, for errors.

        Raises:
            MmllmError: a width, dropout or activation that cannot be.
        """
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
        self.has_dropout = dropout > 0
        self.chosen = None if blocks is None else list(blocks)
        self.layers = nn.ModuleDict()

    def blocks_of(self, llm: LLMHookPoints) -> list[int]:
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

    def bottleneck(self, llm: LLMHookPoints, block: int, place: str) -> Bottleneck:
        """Bottleneck of a place, made if it is not there yet, on the LLM's device and in float32."""
        key = f"{block}-{place}"
        if key not in self.layers:  # attached a second time, it goes on with the weights it has
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
