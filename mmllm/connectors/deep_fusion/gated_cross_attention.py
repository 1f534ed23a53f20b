"""The ``gated_cross_attention`` connector: new layers before frozen blocks read the last picture (Flamingo)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.layers.basics import feed_forward
from mmllm.connectors.layers.prompt_attention import extra_attention
from mmllm.connectors.projectors.resampler import ResamplerConnector
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features


class GatedCrossAttentionConnector(DeepFusion):
    """Gated cross-attention of Flamingo (Alayrac et al. 2022, arXiv 2204.14198), as in OpenFlamingo's code.

    A perceiver resampler gives z float[N, K, W] (:class:`ResamplerConnector` up to its final LN). Before every n-th
    block of the LLM::

        x = x + tanh(a) XAttn(LN x, z)          a = b = 0 at the start: an exact identity
        x = x + tanh(b) FF(x)

    A position attends the last item that started at or before it and no other; the item's placeholder takes no place
    in the sequence, it only marks where the item starts. As in OpenFlamingo's code, positions before the first item of
    a conversation get exactly zero from XAttn but still pass FF; conversations without items pass neither and stay
    bit-identical.

    Two options of that code: ``frames``, a learned vector for each frame of a clip, see :class:`ResamplerConnector`,
    and ``items``, one from N(0, 1) for each item of a conversation by its number, added to all that is read of it. With
    ``items`` prompts are always read whole. OpenFlamingo's published models have neither.
    """

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    shares_prefix = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        every: int = 4,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_dim: int = 64,
        width: int | None = None,
        frames: int = 0,
        items: int = 0,
    ) -> None:
        """Set up the resampler; the layers inside the LLM come with ``attach``.

        Args:
            dim: width of the features.
            llm_dim: width of the LLM's embeddings.
            every: n; the new layers stand before blocks n - 1, 2n - 1, ... counted from 0 (OpenFlamingo's order).
            latents: K, vectors that the resampler gives for an item.
            depth: blocks of the resampler.
            heads: attention heads of the resampler and of the new layers.
            head_dim: width of each.
            width: W of the latents; None: the features' own.
            frames: most frames of an item, each with a learned vector; 0: no such vectors.
            items: most items of a conversation, each with a learned vector; 0: no such vectors.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if every < 1:
            raise MmllmError(f"connector gated_cross_attention every: {every} must be at least 1.")
        if items < 0:
            raise MmllmError(f"connector gated_cross_attention items: {items} must be at least 0.")
        self.every, self.n_latents, self.heads, self.head_dim = every, latents, heads, head_dim
        self.width = dim if width is None else width
        self.resampler = ResamplerConnector(
            dim=dim,
            llm_dim=self.width,
            latents=latents,
            depth=depth,
            heads=heads,
            head_dim=head_dim,
            width=width,
            frames=frames,
        )
        # Flamingo's ends with the LN: each layer's keys and values are linear maps of it anyway
        self.resampler.register_module("output", nn.Identity())
        self.layers = nn.ModuleDict()
        self.n_items = items
        self.items = nn.Parameter(torch.randn(items, self.width)) if items else None
        # which item of its conversation an item is, only the whole batch tells
        self.reads_text = self.accepts_padding = bool(items)
        self.goes_on = self.shares_prefix = not items

    def remember(self, features: Features, ctx: ForwardContext | None = None) -> Tensor:
        """Resample features float[N, T, dim]: z float[N, K, W].

        Raises:
            MmllmError: a conversation has more items than there are vectors for.
        """
        added = None
        if self.items is not None:
            assert ctx is not None
            added = self.items[self._numbers(ctx, len(features.mask))]
        latents: Tensor = self.resampler(features, added)
        return latents

    def _numbers(self, ctx: ForwardContext, n_items: int) -> Tensor:
        """Number of each item among those of its conversation, int64[N]."""
        owners = ctx.item_sequence[self.key]
        numbers = (owners[:, None] == owners).tril(-1).sum(dim=1)
        if len(owners) and int(numbers.max()) >= self.n_items:
            raise MmllmError(
                f"connector gated_cross_attention items: a conversation shows {int(numbers.max()) + 1} items of "
                f"{self.key!r}, but there are vectors for {self.n_items}; raise items."
            )
        # blank items stand in for those that a rank lacks
        return functional.pad(numbers, (0, n_items - len(numbers)))

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the gated layers and put them before every n-th block.

        Raises:
            MmllmError: the LLM has fewer than n blocks.
        """
        blocks = range(self.every - 1, llm.n_blocks, self.every)
        if not blocks:
            raise MmllmError(
                f"connector gated_cross_attention every: {self.every} leaves no layer in an LLM of {llm.n_blocks} "
                f"blocks; give 1..{llm.n_blocks}."
            )
        for key in map(str, blocks):
            if key not in self.layers:
                self.layers[key] = GatedLayer(llm.hidden_dim, self.width, self.heads, self.head_dim)
        return Handle.of([llm.before_block(index, partial(self._change, str(index))) for index in blocks])

    def _change(self, key: str, ctx: ForwardContext, x: Tensor) -> Tensor:
        """Input of the block, float[R, S, D], after its gated layer."""
        latents = self.remembered(ctx)
        if latents is None:
            return x
        last = ctx.last_item[self.key]
        # no position names the blank item of a training batch without media: all its numbers are -1
        seen = last[..., None] == torch.arange(len(latents), device=last.device)
        changed = self.layers[key](x, latents, seen)
        shown = ctx.has_media[self.key][ctx.sequence_ids]
        return self.select(ctx, torch.where(shown[..., None], changed, x), x)


class GatedLayer(nn.Module):
    """Layer x += tanh(a) XAttn(LN x, z), then x += tanh(b) FF(x); no biases but the norms'."""

    def __init__(self, dim: int, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim, bias=False)
        self.feed = feed_forward(dim)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """Read latents float[N, K, W] of the items in ``seen`` bool[R, S, N]: float[R, S, D] in the dtype of ``x``."""
        # in the weights' own dtype: in that of x, perhaps bfloat16, the first small updates would be rounded away
        wide = x.to(self.norm.weight.dtype)
        query = self.query(self.norm(wide)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(z.flatten(0, 1)).unflatten(-1, (2 * self.heads, -1)).transpose(0, 1).chunk(2)
        read = extra_attention(query, key, value, query.shape[-1] ** -0.5, seen.repeat_interleave(z.shape[1], dim=-1))
        wide = wide + torch.tanh(self.attention_gate) * self.output(read.flatten(2))
        wide = wide + torch.tanh(self.feed_gate) * self.feed(wide)
        return wide.to(x.dtype)
