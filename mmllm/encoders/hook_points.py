"""Hook points of an encoder (``Encoder.hook_points()``): its blocks, their attention and MLP."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import nn

from mmllm import hooks
from mmllm.encoders.blocks import EncoderBlock
from mmllm.errors import MmllmError
from mmllm.hooks import Change, ChangeOutput, EncoderContext, Handle, Scope

Add = Change
"""(context, stream) -> what to add to it."""
AddBeside = ChangeOutput
"""(context, stream, what the MLP reads of it) -> what to add."""


class BlockHooks:
    """The blocks of one frozen transformer encoder as connectors see them: float[rows, prefix + T, D], batch first.

    A block adds an attention and an MLP to a residual stream. What ``change`` or ``add`` gives is brought to the
    stream's dtype; both get the :class:`EncoderContext` of the running pass first, whose layout says what the rows are.
    Everything works on this instance of the model and is undone by its handle. Layer 0 of the encoder's hidden states
    is what ``before_block`` lets enter its first block.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        dim: int,
        scope: Scope[EncoderContext],
        *,
        batch_first: bool = True,
        packed: bool = False,
    ) -> None:
        """Take the blocks of a model.

        Args:
            blocks: in order; each of one attention and one MLP with their norms (pre-norm or post-norm).
            dim: D of the residual stream.
            scope: of the encoder, which opens it in its forward.
            batch_first: whether the blocks see [rows, prefix + T, D]; else [prefix + T, rows, D].
            packed: whether they see the real tokens of all rows in one, [1, tokens, D] or [tokens, D]; the layout's
                mask says which they are, and connectors see rows as ever, zeros where it is False.
        """
        self.blocks = list(blocks)
        self.n_blocks = len(self.blocks)
        self.dim = dim
        self.batch_first = batch_first
        self.packed = packed
        self.scope = scope

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
        """Replace the input of block ``index`` by ``change(ctx, it)``."""
        return hooks.before(self.block(index), self._one(change), self.scope)

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of block ``index`` by ``change(ctx, its input, its output)``."""
        # first: transformers records hidden states by hooks of its own, which must see the changed output
        return hooks.after(self.block(index), self._two(change), self.scope, first=True)

    def before_attention(self, index: int, change: Change) -> Handle:
        """Replace the (already normed, where the norm comes first) input of the attention of block ``index``."""
        parts = self.parts(index)
        one = self._one(change)
        if isinstance(parts.attention, nn.MultiheadAttention):  # called with queries, keys and values
            # one change for all three: the norm's output is what they are made of
            return hooks.after(parts.norm_attention, lambda ctx, _, output: one(ctx, output), self.scope)
        return hooks.before(parts.attention, one, self.scope)

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the attention of block ``index`` adds to the stream: ``change(ctx, input, what it adds)``."""
        parts = self.parts(index)
        return self._branch(parts.attention, parts.attention_end, change)

    def before_mlp(self, index: int, change: Change) -> Handle:
        """Replace the (already normed, where the norm comes first) input of the MLP of block ``index``."""
        return hooks.before(self.parts(index).mlp_first, self._one(change), self.scope)

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the MLP of block ``index`` adds to the stream: ``change(ctx, its input, what it adds)``."""
        parts = self.parts(index)
        return self._branch(parts.mlp_first, parts.mlp_last, change)

    def add_before_block(self, index: int, add: Add) -> Handle:
        """Add ``add(ctx, stream)`` to the stream before block ``index``, so before its attention."""
        return self.before_block(index, lambda ctx, x: x + add(ctx, x).to(x.dtype))

    def add_before_mlp(self, index: int, add: Add) -> Handle:
        """Add ``add(ctx, stream)`` to the stream between attention and MLP of block ``index``, for all after.

        Where norms come last, the stream there is what the first norm gives.
        """
        parts = self.parts(index)
        stream = _Stream(self._one(add), self.block(index))
        return Handle.of(
            [
                hooks.before(self.block(index), stream.start, self.scope),
                hooks.before(parts.norm_attention, stream.norm_in, self.scope),
                hooks.after(parts.attention_end, stream.attention_out, self.scope),
                hooks.after(parts.norm_attention, stream.norm_out, self.scope),
            ]
        )

    def add_after_mlp(self, index: int, add: AddBeside) -> Handle:
        """Add ``add(ctx, stream, normed)`` to what the MLP of block ``index`` adds: an adapter parallel to the MLP.

        ``stream`` is the residual before the MLP and its norm, ``normed`` what the MLP reads; where norms come last
        they are the same.
        """
        parts = self.parts(index)
        two = self._two(add)
        seen: dict[str, torch.Tensor] = {}
        given: list[weakref.ref[torch.Tensor]] = []

        # The sub-layers of a block are called one after the other, so what one hook leaves the next one finds. A block
        # that reads a norm's output elsewhere would add twice without a word: that is what `given` is watched for,
        # weakly, since it must not outlive the pass.
        def start(_: EncoderContext, x: torch.Tensor) -> torch.Tensor:
            seen.clear()
            given.clear()
            return x

        def keep(name: str, x: torch.Tensor) -> torch.Tensor:
            if not given:
                seen[name] = x
            elif x is given[0]():
                raise _norms_a_branch(self.block(index))
            return x

        def end(ctx: EncoderContext, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            normed = seen.pop("normed")
            output = output + two(ctx, seen.pop("stream", normed), normed).to(output.dtype)
            given.append(weakref.ref(output))
            return output

        return Handle.of(
            [
                hooks.before(self.block(index), start, self.scope),
                hooks.before(parts.norm_mlp, lambda _, x: keep("stream", x), self.scope),
                hooks.before(parts.mlp_first, lambda _, x: keep("normed", x), self.scope),
                hooks.after(parts.mlp_last, end, self.scope),
            ]
        )

    def _branch(self, first: nn.Module, last: nn.Module, change: ChangeOutput) -> Handle:
        """Change what ``last`` gives, knowing what ``first`` received."""
        two = self._two(change)
        given: list[torch.Tensor] = []

        def keep(_: EncoderContext, x: torch.Tensor) -> torch.Tensor:
            given[:] = [x]
            return x

        def changed(ctx: EncoderContext, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            return two(ctx, given.pop(), output)

        return Handle.of([hooks.before(first, keep, self.scope), hooks.after(last, changed, self.scope)])

    def _one(self, change: Change) -> Change:
        """``change`` as the model's own layout needs it."""
        return lambda ctx, x: self._back(ctx, change(ctx, self._rows(ctx, x)), x)

    def _two(self, change: ChangeOutput) -> ChangeOutput:
        """``change`` of two tensors as the model's own layout needs it."""
        return lambda ctx, x, y: self._back(ctx, change(ctx, self._rows(ctx, x), self._rows(ctx, y)), y)

    def _rows(self, ctx: EncoderContext, x: torch.Tensor) -> torch.Tensor:
        """What the blocks see -> float[rows, prefix + T, D]."""
        if self.packed:
            mask = _mask(ctx)
            rows = x.new_zeros(*mask.shape, x.shape[-1])
            return rows.index_put((mask,), x.flatten(0, -2))
        return x if self.batch_first else x.transpose(0, 1)

    def _back(self, ctx: EncoderContext, changed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The reverse, in the dtype and layout of ``like``."""
        changed = changed.to(like.dtype)
        if self.packed:
            return changed[_mask(ctx)].reshape(like.shape)
        return changed if self.batch_first else changed.transpose(0, 1)


def _mask(ctx: EncoderContext) -> torch.Tensor:
    assert ctx.layout is not None and ctx.layout.mask is not None  # an encoder that packs opens one with its mask
    return ctx.layout.mask


class _Stream:
    """Adds to the stream after the attention's residual, in one pass through a block, wherever its norm stands."""

    def __init__(self, add: Add, block: nn.Module) -> None:
        self.add = add
        self.block = block
        self.residual: torch.Tensor | None = None
        self.given: weakref.ref[torch.Tensor] | None = None
        """Tensor that the attention adds, once it is known; weak: it must not outlive the pass."""

    def start(self, _: EncoderContext, x: torch.Tensor) -> torch.Tensor:
        """Begin a block."""
        self.residual = self.given = None
        return x

    def norm_in(self, _: EncoderContext, x: torch.Tensor) -> torch.Tensor:
        """Keep the residual, which a norm before the attention reads."""
        if self.given is None:
            self.residual = x
        elif x is self.given():
            raise _norms_a_branch(self.block)
        return x

    def attention_out(self, ctx: EncoderContext, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Change what the attention adds; the residual is about to be added to it."""
        residual, self.residual = self.residual, None
        output = output if residual is None else output + self.add(ctx, residual + output)
        self.given = weakref.ref(output)
        return output

    def norm_out(self, ctx: EncoderContext, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Change the stream itself, which a norm after the attention's residual gives."""
        return output if self.given is None else output + self.add(ctx, output)


def _norms_a_branch(block: nn.Module) -> MmllmError:
    """Error for a block whose norm stands where it is not known what a branch adds."""
    return MmllmError(
        f"the norms of a {type(block).__name__} stand after its attention and MLP and before the residual is added; "
        "connectors inside an encoder cannot work there, choose another encoder."
    )
