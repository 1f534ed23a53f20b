"""Where connectors take hold inside an encoder (``Encoder.inside()``): its blocks, their attention and MLP."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import nn

from mmllm import hooks
from mmllm.encoders.blocks import EncoderBlock
from mmllm.errors import MmllmError
from mmllm.hooks import Change, ChangeOutput, Handle

Add = Callable[[torch.Tensor], torch.Tensor]
"""What to add to a stream, given it."""
AddBeside = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What to add to a stream, given it and what the MLP reads of it."""


class EncoderHookPoints:
    """The blocks of one frozen transformer encoder as connectors see them: float[rows, prefix + T, D], batch first.

    A block adds an attention and an MLP to a residual stream. What ``change`` or ``add`` gives is brought to the
    stream's dtype. ``Encoder.now`` says what the rows are. Everything works on this instance of the model and is
    undone by its handle. Layer 0 of the encoder's hidden states is what ``before_block`` lets enter its first block.
    """

    def __init__(self, blocks: Iterable[nn.Module], dim: int, *, batch_first: bool = True) -> None:
        """Take the blocks of a model.

        Args:
            blocks: in order; each of one attention and one MLP with their norms (pre-norm or post-norm).
            dim: D of the residual stream.
            batch_first: whether the blocks see [rows, prefix + T, D]; else [prefix + T, rows, D].
        """
        self.blocks = list(blocks)
        self.n_blocks = len(self.blocks)
        self.dim = dim
        self.batch_first = batch_first
        self.switch = hooks.Switch()

    def block(self, index: int) -> nn.Module:
        """Block ``index``.

        Raises:
            MmllmError: there is none.
        """
        if not 0 <= index < self.n_blocks:
            raise MmllmError(f"block {index}: this encoder has {self.n_blocks} blocks, numbered from 0.")
        return self.blocks[index]

    def parts(self, index: int) -> EncoderBlock:
        """Attention, MLP and norms of block ``index``; MmllmError where it has another structure."""
        return EncoderBlock.of(self.block(index))

    def before_block(self, index: int, change: Change) -> Handle:
        """Replace the input of block ``index`` by ``change(it)``."""
        return hooks.before(self.block(index), self._one(change), self.switch)

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of block ``index`` by ``change(its input, its output)``."""
        return hooks.after(self.block(index), self._two(change), self.switch, first=True)

    def before_attention(self, index: int, change: Change) -> Handle:
        """Replace the (already normed, where the norm comes first) input of the attention of block ``index``."""
        parts = self.parts(index)
        one = self._one(change)
        if isinstance(parts.attention, nn.MultiheadAttention):  # called with queries, keys and values
            return hooks.after(parts.norm_attention, lambda _, output: one(output), self.switch)
        return hooks.before(parts.attention, one, self.switch)

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the attention of block ``index`` adds to the stream: ``change(its input, what it adds)``."""
        parts = self.parts(index)
        return self._branch(parts.attention, parts.attention_end, change)

    def before_mlp(self, index: int, change: Change) -> Handle:
        """Replace the (already normed, where the norm comes first) input of the MLP of block ``index``."""
        return hooks.before(self.parts(index).mlp_first, self._one(change), self.switch)

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the MLP of block ``index`` adds to the stream: ``change(its input, what it adds)``."""
        parts = self.parts(index)
        return self._branch(parts.mlp_first, parts.mlp_last, change)

    def add_before_block(self, index: int, add: Add) -> Handle:
        """Add ``add(stream)`` to the stream before block ``index``, so before its attention."""
        return self.before_block(index, lambda x: x + add(x).to(x.dtype))

    def add_before_mlp(self, index: int, add: Add) -> Handle:
        """Add ``add(stream)`` to the stream between attention and MLP of block ``index``, for the MLP and all after.

        Where norms come last, the stream there is what the first norm gives.
        """
        parts = self.parts(index)
        stream = _Stream(self._one(add), self.block(index))
        return hooks.all_of(
            [
                hooks.before(self.block(index), stream.start, self.switch),
                hooks.before(parts.norm_attention, stream.norm_in, self.switch),
                hooks.after(parts.attention_end, stream.attention_out, self.switch),
                hooks.after(parts.norm_attention, stream.norm_out, self.switch),
            ]
        )

    def add_after_mlp(self, index: int, add: AddBeside) -> Handle:
        """Add ``add(stream, normed)`` to what the MLP of block ``index`` adds: an adapter parallel to the MLP.

        ``stream`` is the residual before the MLP and its norm, ``normed`` what the MLP reads; where norms come last
        they are the same.
        """
        parts = self.parts(index)
        two = self._two(add)
        seen: dict[str, torch.Tensor] = {}
        given: list[weakref.ref[torch.Tensor]] = []

        def start(x: torch.Tensor) -> torch.Tensor:
            seen.clear()
            given.clear()
            return x

        def keep(name: str, x: torch.Tensor) -> torch.Tensor:
            if not given:
                seen[name] = x
            elif x is given[0]():
                raise _norms_a_branch(self.block(index))
            return x

        def end(_: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            normed = seen.pop("normed")
            output = output + two(seen.pop("stream", normed), normed).to(output.dtype)
            given.append(weakref.ref(output))
            return output

        return hooks.all_of(
            [
                hooks.before(self.block(index), start, self.switch),
                hooks.before(parts.norm_mlp, lambda x: keep("stream", x), self.switch),
                hooks.before(parts.mlp_first, lambda x: keep("normed", x), self.switch),
                hooks.after(parts.mlp_last, end, self.switch),
            ]
        )

    def _branch(self, first: nn.Module, last: nn.Module, change: ChangeOutput) -> Handle:
        """Change what ``last`` gives, knowing what ``first`` received."""
        two = self._two(change)
        given: list[torch.Tensor] = []

        def keep(x: torch.Tensor) -> torch.Tensor:
            given[:] = [x]
            return x

        def changed(_: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            return two(given.pop(), output)

        return hooks.all_of([hooks.before(first, keep, self.switch), hooks.after(last, changed, self.switch)])

    def _one(self, change: Change) -> Change:
        """``change`` as the model's own layout needs it."""
        if self.batch_first:
            return lambda x: change(x).to(x.dtype)
        return lambda x: change(x.transpose(0, 1)).to(x.dtype).transpose(0, 1)

    def _two(self, change: ChangeOutput) -> ChangeOutput:
        """``change`` of two tensors as the model's own layout needs it."""
        if self.batch_first:
            return lambda x, y: change(x, y).to(y.dtype)
        return lambda x, y: change(x.transpose(0, 1), y.transpose(0, 1)).to(y.dtype).transpose(0, 1)


class _Stream:
    """Adds to the stream after the attention's residual, in one pass through a block, wherever its norm stands."""

    def __init__(self, add: Add, block: nn.Module) -> None:
        self.add = add
        self.block = block
        self.residual: torch.Tensor | None = None
        self.given: weakref.ref[torch.Tensor] | None = None
        """What the attention adds, once it is known; weak: it must not outlive the pass."""

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """The block begins."""
        self.residual = self.given = None
        return x

    def norm_in(self, x: torch.Tensor) -> torch.Tensor:
        """A norm before the attention reads the residual."""
        if self.given is None:
            self.residual = x
        elif x is self.given():
            raise _norms_a_branch(self.block)
        return x

    def attention_out(self, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What the attention adds; the residual is about to be added to it."""
        residual, self.residual = self.residual, None
        output = output if residual is None else output + self.add(residual + output)
        self.given = weakref.ref(output)
        return output

    def norm_out(self, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """A norm after the attention's residual gives the stream itself."""
        return output if self.given is None else output + self.add(output)


def _norms_a_branch(block: nn.Module) -> MmllmError:
    """A norm stands where it is not known what a branch adds."""
    return MmllmError(
        f"the norms of a {type(block).__name__} stand after its attention and MLP and before the residual is added; "
        "connectors inside an encoder cannot work there, choose another encoder."
    )
