"""Hook points of an LLM for connectors: blocks, their attention and MLP, linear layers, embeddings, norm and head.

The base of ``causal_lm.CausalLM``. Everything works on instances, alike in every family, and is undone by its handle.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

from mmllm import hooks
from mmllm.errors import MmllmError
from mmllm.hooks import Around, Change, ChangeOutput, ForwardContext, Handle, Scope
from mmllm.hooks.experts import RunExperts, around_experts
from mmllm.llms.attention import Extend
from mmllm.llms.blocks import DecoderBlock
from mmllm.llms.last_block import rows_of
from mmllm.llms.structure import Structure


class HookedLM(Structure):
    """A causal LM as connectors see it. R rows of S positions: one packed row, or one per conversation in decoding.

    Every ``change`` gets the :class:`ForwardContext` of the running pass first.
    """

    scope: Scope[ForwardContext]
    """Hands the context of the running pass to the hooks."""
    _extensions: dict[int, list[Extend]]
    _checkpointing: list[Handle]
    _n_copies: int
    _logit_changes: list[ChangeOutput]
    _head_changes: list[ChangeOutput]

    # ---- hooks

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of block ``index`` by ``change(ctx, its input, its output)``, float[R, S, hidden_dim]."""
        return hooks.after(self.blocks[index], change, self.scope)

    def before_block(self, index: int, change: Change) -> Handle:
        """Replace the input of block ``index`` by ``change(ctx, it)``, float[R, S, hidden_dim]."""
        return hooks.before(self.blocks[index], change, self.scope)

    def before_attention(self, index: int, change: Change) -> Handle:
        """Replace the (already normed, where the family norms first) input of the attention of block ``index``."""
        return hooks.before(self.parts(index).attention, change, self.scope)

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of the attention of block ``index``, before the residual is added."""
        return hooks.after(self.parts(index).attention, change, self.scope)

    def before_mlp(self, index: int, change: Change) -> Handle:
        """Replace the (already normed) input of the MLP of block ``index``: float[R, S, D], OPT: float[R * S, D]."""
        return hooks.before(self.parts(index).mlp_first, change, self.scope)

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of the MLP of block ``index``; ``change(ctx, the MLP's input, its output)``."""
        parts = self.parts(index)
        if parts.mlp_first is parts.mlp_last:
            return hooks.after(parts.mlp_last, change, self.scope)
        given: list[torch.Tensor] = []

        def keep(_: ForwardContext, x: torch.Tensor) -> torch.Tensor:
            given[:] = [x]
            return x

        def changed(ctx: ForwardContext, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            # popped: the tensor must not outlive the pass
            return change(ctx, given.pop(), output)

        first = hooks.before(parts.mlp_first, keep, self.scope)
        return Handle.of([first, hooks.after(parts.mlp_last, changed, self.scope)])

    def after_linear(self, name: str, change: ChangeOutput) -> Handle:
        """Replace the output of the layer ``name`` (see :meth:`linears`) by ``change(ctx, its input, its output)``."""
        return hooks.after(self.model.get_submodule(name), change, self.scope)

    def before_linear(self, name: str, change: Change) -> Handle:
        """Replace the input of the linear layer ``name`` (see :meth:`linears`) by ``change(ctx, it)``."""
        return hooks.before(self.model.get_submodule(name), change, self.scope)

    def around_linear(self, name: str, run: Around) -> Handle:
        """Let ``run(ctx, the layer's own forward, input)`` compute the output of the linear layer ``name``."""
        return hooks.wrap_forward(self.model.get_submodule(name), run, self.scope)

    def around_experts(self, index: int, run: RunExperts) -> Handle:
        """Let ``run(ctx, their own forward, hidden, ids, weights)`` compute what the experts of block ``index`` give.

        ``hidden`` float[N, D] of all positions, ``ids`` int64[N, K] and ``weights`` float[N, K] as the router chose.
        """
        experts = self.experts(index)
        if experts is None:
            raise MmllmError(f"layer {index}: this block has no experts")
        return around_experts(experts, run, self.scope)

    def replace_linear(self, name: str, module: nn.Module) -> Handle:
        """Put ``module`` where the linear layer ``name`` is, until the handle is removed."""
        return hooks.replace(self.model, name, module)

    def after_embed(self, change: ChangeOutput) -> Handle:
        """Replace the embeddings of text: ``change(ctx, ids int64[S] or [B, S], float[S, D] or [B, S, D])``."""
        return hooks.after(self.model.get_input_embeddings(), change, self.scope)

    def after_final_norm(self, change: ChangeOutput) -> Handle:
        """Replace the output of the norm after the last block, float[R, S, hidden_dim]."""
        return hooks.after(self.final_norm, change, self.scope)

    def after_head(self, change: ChangeOutput) -> Handle:
        """Replace what the LM head's linear layer gives: ``change(ctx, float[1, M, D], float[1, M, V])``.

        ``ctx.head_positions`` says which positions these are. What the model does after its head (scale, soft-cap)
        follows.
        """
        self._head_changes.append(change)
        forget = Handle(lambda: self._head_changes.remove(change))
        return Handle.of([forget, hooks.after(self.model.get_output_embeddings(), change, self.scope)])

    def after_logits(self, change: ChangeOutput) -> Handle:
        """Replace what ``logits`` gives, scale and soft-cap included: ``change(ctx, float[M, D], float[M, V])``.

        ``ctx.head_positions`` says which positions these are; ``plain_logits`` are those of other states.
        """
        self._logit_changes.append(change)
        return Handle(lambda: self._logit_changes.remove(change))

    # ---- attention

    def extend_attention(self, index: int, extend: Extend) -> Handle:
        """Change what the heads of block ``index`` read: ``extend(ctx, query, output, scaling)`` -> another output.

        ``query`` float[R, heads, S, d] after positions and norms, ``output`` float[R, S, heads, d] before the output
        projection, ``scaling`` of the product of query and key.
        """
        attention = self.attending(index).attention
        layer = int(attention.layer_idx)  # type: ignore[arg-type]
        self._extensions.setdefault(layer, []).append(extend)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            positions = kwargs["position_embeddings"] if "position_embeddings" in kwargs else None
            self.scope.current.notes["rotary", layer] = positions  # for keys_values, which has to give some

        hook = attention.register_forward_pre_hook(keep, with_kwargs=True)

        def undo() -> None:
            hook.remove()
            self._extensions[layer].remove(extend)

        return Handle(undo)

    def keys_values(self, index: int, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, float[kv_heads, K, d] each, that the frozen block ``index`` makes of float[K, hidden_dim].

        Its biases and norms of keys are in, positions and other connectors' hooks are not. To be called inside an
        ``extend`` of :meth:`extend_attention` for the same block.
        """
        attention = self.parts(index).attention
        rotary = self.scope.current.notes["rotary", int(attention.layer_idx)]  # type: ignore[arg-type]
        if isinstance(rotary, torch.Tensor):  # complex numbers (Llama 4), of which 1 rotates nothing
            rotary = torch.ones_like(rotary[:1, :1]).expand(1, len(states), -1)
        elif rotary is not None:  # no rotation: cosine 1 and sine 0 for each of the K states
            cosine, sine = (part[:1, :1].expand(1, len(states), -1) for part in rotary)
            rotary = (torch.ones_like(cosine), torch.zeros_like(sine))
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        with self.scope.off():
            attention.forward(  # not called: hooks of the attention itself are for its ordinary pass
                hidden_states=states[None],
                position_embeddings=rotary,
                attention_mask=None,
                past_key_values=None,
                capture=found,
            )
        key, value = found[0]
        return key[0], value[0]

    # ---- more blocks

    def copy_block(self, index: int) -> nn.Module:
        """A float32 copy of block ``index`` that may learn, without hooks, with the next free layer of the cache.

        MmllmError where it does not attend: the cache grows by layers of keys and values.
        """
        self.attending(index)
        plain = hooks.copied(self.blocks[index])
        attention = DecoderBlock.of(plain).attention
        # the cache keeps keys and values by this number: with the original's the two would write over each other
        attention.__dict__["layer_idx"] = self.n_blocks + self._n_copies
        self._n_copies += 1
        return plain

    def copied(self, module: nn.Module) -> nn.Module:
        """A float32 copy of one of its layers that may learn, without the hooks that stand in it."""
        return hooks.copied(module)

    def insert_block(self, index: int, block: nn.Module, choose: ChangeOutput, owner: Hashable | None = None) -> Handle:
        """Run ``block`` (see :meth:`copy_block`) on the output of block ``index``, called as that block was called.

        ``choose(ctx, what it gives, its input)``, both float[R, S, hidden_dim], is what goes on. ``index`` -1: on the
        embeddings, before block 0. It keeps its own keys and values, and is computed again in the backward pass where
        the LLM's blocks are. ``owner``: it runs on the positions of this one's stretches of ``ctx.stretches`` alone.

        Raises:
            MmllmError: the block's attention is of another kind (sliding window, positions) than that of the place.
        """
        place, own = (_kind(part.attention) for part in (self.parts(max(index, 0)), DecoderBlock.of(block)))
        if place != own:
            raise MmllmError(
                f"a copied block of this LLM cannot stand after block {index}: its attention is {own}, the place is "
                f"for {place}; put it beside the block it was copied from"
            )

        def run(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: torch.Tensor) -> torch.Tensor:
            # a copied block learns, so it is float32 whatever the LLM is
            args, kwargs = hooks.with_first_input(args, kwargs, hidden.float())
            # transformers names no dtype for what it hands to a block: positions come in that of the embeddings
            kwargs = {name: _float(value) for name, value in kwargs.items()}
            output = hooks.recomputed(block, args, kwargs) if self._checkpointing else block(*args, **kwargs)
            inner = output[0] if isinstance(output, tuple) else output
            return choose(self.scope.current, inner.to(hidden.dtype), hidden)

        def run_own(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: torch.Tensor) -> torch.Tensor:
            if owner is None:
                return run(args, kwargs, hidden)
            for one in self.scope.current.stretches or ():
                if one.owner is owner:
                    rows = slice(one.start, one.end)
                    own = {name: rows_of(value, rows) for name, value in kwargs.items()}
                    own["stored"] = kwargs["stored"].between(one.start, one.end)
                    with self.scope.open(one.ctx):
                        made = run(tuple(rows_of(value, rows) for value in args), own, hidden[:, rows])
                    hidden = torch.cat([hidden[:, : one.start], made, hidden[:, one.end :]], dim=1)
            return hidden

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self.scope.enabled:
                return output
            if isinstance(output, tuple):
                return (run_own(args, kwargs, output[0]), *output[1:])
            return run_own(args, kwargs, output)

        def first(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self.scope.enabled:
                return args, kwargs
            return hooks.with_first_input(args, kwargs, run_own(args, kwargs, hooks.first_input(args, kwargs)))

        if index == -1:
            return Handle(self.blocks[0].register_forward_pre_hook(first, with_kwargs=True).remove)
        return Handle(self.blocks[index].register_forward_hook(hook, with_kwargs=True).remove)


def _kind(attention: nn.Module) -> dict[str, Any]:
    """Properties of a block's attention that its place in the LLM decides, apart from its weights."""
    # as transformers 5.23 calls them: sliding or full attention, and layers without rotary positions (SmolLM3, Llama 4)
    names = ("layer_type", "sliding_window", "use_rope")
    return {name: attention.__dict__[name] for name in names if name in attention.__dict__}


def _float(value: Any) -> Any:
    """Cosines and sines in float32; masks and the rest as they are."""
    if isinstance(value, tuple) and all(isinstance(part, torch.Tensor) for part in value):
        return tuple(part.float() if part.is_floating_point() else part for part in value)
    return value
