"""What connectors inside an encoder ask of it: the part of ``encoders/base.py`` and ``encoders/hook_points.py``.

Connectors and encoders do not import each other; the assembly hands one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn

from mmllm.hooks import Change, ChangeOutput, Handle
from mmllm.types import EncoderPass

AddBeside = Callable[[Tensor, Tensor], Tensor]
"""What to add to a stream, given it and what the MLP reads of it."""


class Inside(Protocol):
    """The blocks of one encoder; what each hook does stands in ``encoders/hook_points.py``."""

    n_blocks: int
    dim: int
    """D of the residual stream."""

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of a block, given its input too."""
        ...

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the attention adds to the stream, given its input too."""
        ...

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the MLP adds to the stream, given its input too."""
        ...

    def add_before_block(self, index: int, add: Change) -> Handle:
        """Add to the stream before a block."""
        ...

    def add_before_mlp(self, index: int, add: Change) -> Handle:
        """Add to the stream between attention and MLP."""
        ...

    def add_after_mlp(self, index: int, add: AddBeside) -> Handle:
        """Add to what the MLP adds, given the stream and what the MLP reads."""
        ...


class Encoder(Protocol):
    """A frozen encoder with blocks."""

    now: EncoderPass | None
    """Facts of the pass it is making."""

    def inside(self) -> Inside:
        """Its blocks."""
        ...

    def resolve(self, n_blocks: int) -> tuple[int, ...]:
        """The layers that are read of it, counted from the front."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...
