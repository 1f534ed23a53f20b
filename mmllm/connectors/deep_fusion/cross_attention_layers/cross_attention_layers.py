"""The ``cross_attention_layers`` connector: blocks of cross-attention among the LLM's own (Llama 3.2 Vision)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.deep_fusion.cross_attention_layers.block import CrossAttentionBlock
from mmllm.connectors.deep_fusion.cross_attention_layers.reads import Read, Seen, reads_of
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features


class CrossAttentionLayersConnector(DeepFusion):
    """Cross-attention blocks of Llama 3.2 Vision (Grattafiori et al. 2024, arXiv 2407.21783).

    One linear layer gives z float[N, T, W] of an item's features. Whole blocks stand among those of the LLM, each::

        x = x + tanh(a) XAttn(RMS x, z)         a = b = 0 at the start: an exact identity
        x = x + tanh(b) MLP(RMS x)              MLP(y) = down(act(gate y) * up y)

    with grouped heads, an RMSNorm on each head's queries and keys, no positions. A position reads the items from the
    last one that starts at or before it back to the first of those that stand together with it, which is where at most
    one token is between their starts. An item's tokens take no places in the sequence; its keys and values are computed
    once. Positions in front of a conversation's first item stay bit for bit as they were.

    ``reads_ahead`` is what the published model does in their place: they read all tokens of all items of their
    conversation, also those of empty tiles, and skip the MLP; so what stands in front of a picture changes with it.
    """

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    shares_prefix = True
    accepts_padding = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        every: int = 4,
        before: Sequence[int] | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        mlp_width: int | None = None,
        activation: str = "silu",
        eps: float = 1e-5,
        reads_ahead: bool = False,
    ) -> None:
        """Set up the linear layer; the blocks come with ``attach``.

        Args:
            dim: width of the features.
            llm_dim: width of the LLM's embeddings, and W.
            every: n; blocks stand before those of the LLM with the numbers n - 1, 2n - 1, ... counted from 0.
            before: numbers instead, one twice for two blocks in a row; the number of the LLM's blocks is behind the
                last of them.
            heads: of queries; None: as many as the LLM has.
            kv_heads: of keys and values; None: as many as the LLM has.
            head_dim: width of each; None: the LLM's width / heads.
            mlp_width: inner width of the MLP; None: 4 times the LLM's width.
            activation: of the MLP's gate, by transformers' name.
            eps: of the norms.
            reads_ahead: what is in front of the first item reads all of them, as in the published model.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value in {"every": every, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}.items():
            if value is not None and value < 1:
                raise MmllmError(f"connector cross_attention_layers {name}: {value} must be at least 1.")
        self.every = every
        self.before = None if before is None else tuple(before)
        self.heads, self.kv_heads, self.head_dim, self.mlp_width = heads, kv_heads, head_dim, mlp_width
        self.activation, self.eps = activation, eps
        self.reads_later_items = reads_ahead
        self.projector = nn.Linear(dim, llm_dim)
        self.layers = nn.ModuleList()

    def states(self, features: Features) -> Tensor:
        """What all blocks read, z float[N, T, W], of features float[N, T, dim]."""
        states: Tensor = self.projector(features.concatenated())
        return states

    def remember(self, features: Features) -> tuple[Seen, ...]:
        """Keys and values of every block of each item, float[T, kv_heads, d], and how many tokens are shown."""
        states = self.states(features)
        lengths = features.mask.sum(dim=1).tolist()
        shown = features.extras["shown"].tolist() if "shown" in features.extras else lengths
        pairs = [self._block(number).keys_values(states) for number in range(len(self.layers))]
        return tuple(
            Seen(shown[n], tuple((key[n, :length], value[n, :length]) for key, value in pairs))
            for n, length in enumerate(lengths)
        )

    def joined(self, parts: Sequence[Any]) -> Any:
        """Of several items; nothing is copied."""
        return tuple(item for part in parts for item in part)

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the blocks and put them among the LLM's.

        Raises:
            MmllmError: a place that the LLM has not got, or heads that do not fit.
        """
        places = self._places(llm.n_blocks)
        for _ in places[len(self.layers) :]:
            self.layers.append(self._made(llm))
        # behind the last block its output may be of chosen positions alone
        self.positionwise = places[-1] < llm.n_blocks
        handles = []
        for number, place in enumerate(places):
            if place < llm.n_blocks:
                handles.append(llm.before_block(place, partial(self._change, number)))
            else:
                handles.append(llm.after_block(place - 1, partial(self._change_output, number)))
        return Handle.of(handles)

    def _block(self, number: int) -> CrossAttentionBlock:
        block = self.layers[number]
        assert isinstance(block, CrossAttentionBlock)
        return block

    def _places(self, n_blocks: int) -> list[int]:
        """Blocks of the LLM before which one stands, rising."""
        known = f"this LLM has {n_blocks} blocks"
        if self.before is None:
            found = list(range(self.every - 1, n_blocks, self.every))
            if not found:
                raise MmllmError(f"connector cross_attention_layers every: {self.every} leaves no block; {known}.")
            return found
        if not self.before or sorted(self.before) != list(self.before):
            raise MmllmError(f"connector cross_attention_layers before: {list(self.before)} must be rising numbers.")
        if self.before[0] < 0 or self.before[-1] > n_blocks:
            raise MmllmError(
                f"connector cross_attention_layers before: {list(self.before)}: {known}, so places are 0 to {n_blocks}."
            )
        return list(self.before)

    def _made(self, llm: LLMHookPoints) -> CrossAttentionBlock:
        """A new block, as wide as the LLM where nothing else is said."""
        heads = llm.heads if self.heads is None else self.heads
        kv_heads = min(llm.kv_heads, heads) if self.kv_heads is None else self.kv_heads
        if heads % kv_heads:
            raise MmllmError(
                f"connector cross_attention_layers kv_heads: {kv_heads} must divide heads, which are {heads}."
            )
        dim = llm.hidden_dim
        return CrossAttentionBlock(
            dim=dim,
            width=self.llm_dim,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=max(1, dim // heads) if self.head_dim is None else self.head_dim,
            mlp_width=4 * dim if self.mlp_width is None else self.mlp_width,
            activation=self.activation,
            eps=self.eps,
        )

    def _change_output(self, number: int, ctx: ForwardContext, _: Tensor, output: Tensor) -> Tensor:
        return self._change(number, ctx, output)

    def _change(self, number: int, ctx: ForwardContext, x: Tensor) -> Tensor:
        """The stream float[R, S, D] behind block ``number``."""
        seen: tuple[Seen, ...] | None = self.remembered(ctx)
        if seen is None:
            return x
        reads = ctx.once((self.key, "reads"), lambda: reads_of(ctx, self.key, self.reads_later_items))
        flat = x.flatten(0, 1)
        if not reads:
            return self._unread(number, x, seen)
        places = torch.cat([one.positions for one in reads])
        changed = self.layers[number](flat[places], reads, [one.tokens(seen, number) for one in reads])
        return self.select(ctx, flat.index_copy(0, places, changed.to(x.dtype)).view_as(x), x)

    def _unread(self, number: int, x: Tensor, seen: tuple[Seen, ...]) -> Tensor:
        """The stream as it is; in training with a zero to which the block's weights are attached."""
        if not torch.is_grad_enabled():
            return x
        # a rank whose items nobody reads must not keep the others waiting for its gradients
        one = Read(torch.zeros(1, dtype=torch.int64, device=x.device), (0,), False)
        nothing = self.layers[number](x.flatten(0, 1)[:1], [one], [one.tokens(seen, number)]).sum() * 0.0
        return x + nothing.to(x.dtype)
