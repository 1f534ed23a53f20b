"""The ``deepstack`` connector: few tokens at the input, finer ones added to them before later blocks (DeepStack)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.layers.basics import as_maps, mlp
from mmllm.connectors.layers.encoder_layers import listed, normed
from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features, Grid


class DeepstackConnector(DeepFusion):
    """Stacks of visual tokens for successive blocks at the places of one (Meng et al. 2024, arXiv 2406.04334).

    The input tokens are the encoder's map averaged over blocks of ``factor`` x ``factor`` patches, through an MLP (in
    the paper's models the encoder reads a small copy of the picture for them; the stacks are the same). Stack s is
    **added** to the hidden states at the same places before block ``start`` + s * ``interval``, in the pass over the
    prompt only: later tokens see it through the cache. ``stacks``:

    - ``grid``: the full map, sampled with holes, ``[i::factor, j::factor]`` for s = i * factor + j: factor**2 stacks
      through the same MLP, no new weights.
    - ``layers``: the last layer listed under the encoder's ``layers`` is the input; each layer before it gives one
      stack, through an MLP of its own. With ``merge: shuffle`` these are Qwen3-VL's; with ``merge: mean``, where stacks
      are averaged as the input is, they are after its idea alone, and no published model has them.

    ``merge: shuffle`` lays the patches of a block side by side instead of averaging them: a LayerNorm with ``eps`` of
    each patch at the input, of each block in the stacks, then an MLP ``width`` wide inside.

    ``norm`` first brings each layer to mean 0 and variance 1 per token, for encoders whose hidden states are large: the
    stacks are added to the LLM's. An untrained one is no identity. Where the LLM's hidden states have another width
    than its embeddings (some OPT), a learned linear map without bias brings the stacks to it.
    """

    attaches_to_parts = True
    goes_on = True
    joins_sizes = True
    shares_prefix = True
    whole_before_attached = True  # but for the bridge, which few LLMs need

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        factor: int = 2,
        stacks: Literal["grid", "layers"] = "grid",
        layers: int = 1,
        start: int = 1,
        interval: int = 1,
        depth: int = 2,
        norm: bool = False,
        merge: Literal["mean", "shuffle"] = "mean",
        eps: float = 1e-5,
        width: int | None = None,
    ) -> None:
        """Set up.

        Args:
            dim: width of the features, of all their layers side by side.
            llm_dim: width of the LLM's embeddings.
            factor: patches per token along each side.
            stacks: where the stacks come from, see above.
            layers: how many layers the encoder's ``layers`` lists; needed for ``stacks: layers`` only.
            start: block before which the first stack is added, counted from 0.
            interval: blocks from one stack to the next.
            depth: linear layers of an MLP.
            norm: whether to norm each layer first; see above.
            merge: how patches become tokens; ``shuffle`` is for ``stacks: layers``.
            eps: of the norms of ``merge: shuffle``.
            width: channels between the linear layers of an MLP; default: the LLM's.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if stacks not in ("grid", "layers"):
            raise MmllmError(f"connector deepstack stacks: {stacks!r} is unknown; known: grid, layers.")
        if merge not in ("mean", "shuffle") or (merge == "shuffle" and stacks != "layers"):
            raise MmllmError(
                f"connector deepstack merge: {merge!r} with stacks: {stacks} is unknown; known: mean, and shuffle with "
                "stacks: layers."
            )
        for name, value, least in (("factor", factor, 1), ("start", start, 0), ("interval", interval, 1)):
            if value < least:
                raise MmllmError(f"connector deepstack {name}: {value} must be at least {least}.")
        if stacks == "layers" and (layers < 2 or dim % layers):
            raise MmllmError(
                f"connector deepstack layers: {layers} must be how many the encoder's own `layers` lists, at least 2 "
                f"(width {dim} in all)."
            )
        self.factor, self.stacks, self.start, self.interval = factor, stacks, start, interval
        self.n_layers, self.norm = layers, norm
        self.n_stacks = factor**2 if stacks == "grid" else layers - 1
        self.merge = merge
        of_layer = dim if stacks == "grid" else dim // layers
        words: dict[str, Any] = {"llm_dim": llm_dim, "depth": depth, "width": width}

        def merger(norm_first: bool = False) -> nn.Module:
            if merge == "mean":
                return mlp(of_layer, **words)
            return PixelShuffleConnector(dim=of_layer, factor=factor, norm_first=norm_first, eps=eps, **words)

        self.mlp = merger(norm_first=True)
        self.mergers = nn.ModuleList(merger() for _ in range(0 if stacks == "grid" else self.n_stacks))
        self.bridge: nn.Module = nn.Identity()

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the input tokens, (rows / factor, cols / factor), of each frame or tile in front.

        Raises:
            MmllmError: that does not come out whole, or there are no rows and columns.
        """
        _, rows, cols = as_maps(grid, "deepstack")
        if rows % self.factor or cols % self.factor:
            raise MmllmError(
                f"connector deepstack factor: {self.factor} must divide the encoder's grid of {rows} x {cols} patches."
            )
        return (*grid[:-2], rows // self.factor, cols // self.factor)

    def forward(self, features: Features) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features float[N, T, dim] -> (tokens float[N, n_tokens, llm_dim], stacks float[N, n_tokens, hidden])."""
        self.out_grid(features.grid)
        if self.norm:
            features = normed(features)
        if self.stacks == "grid":
            x = features.concatenated()
            stacks = [self.mlp(stack) for stack in self.dilated(x, features.grid)]
        else:
            *others, x = listed(features, self.n_layers, "deepstack")
            pairs = zip(self.mergers, others, strict=True)
            stacks = [self._merged(merger, layer, features) for merger, layer in pairs]
        stacks = [self.bridge(stack) for stack in stacks]
        return self._merged(self.mlp, x, features), tuple(stacks)

    def _merged(self, merger: nn.Module, x: Tensor, features: Features) -> Tensor:
        """Tokens float[N, n_tokens, llm_dim] of one layer float[N, T, D]."""
        if self.merge == "mean":
            tokens: Tensor = merger(self.pooled(x, features.grid))
        else:
            tokens = merger(replace(features, layers={-1: x}))
        return tokens

    def dilated(self, x: Tensor, grid: Sequence[int]) -> list[Tensor]:
        """Sample float[N, T, D] with holes: factor**2 of float[N, n_tokens, D]."""
        maps = x.reshape(x.shape[0], *as_maps(grid, "deepstack"), x.shape[-1])
        steps = range(self.factor)
        return [maps[:, :, i :: self.factor, j :: self.factor].flatten(1, 3) for i in steps for j in steps]

    def pooled(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Average float[N, T, D] over blocks: float[N, n_tokens, D]."""
        _, rows, cols = as_maps(grid, "deepstack")
        maps = x.reshape(-1, rows, cols, x.shape[-1]).permute(0, 3, 1, 2)
        means = functional.avg_pool2d(maps, self.factor)
        return means.flatten(2).transpose(1, 2).reshape(x.shape[0], -1, x.shape[-1])

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Add each stack before its block.

        Raises:
            MmllmError: the LLM has too few blocks.
        """
        blocks = [self.start + s * self.interval for s in range(self.n_stacks)]
        if blocks[-1] >= llm.n_blocks:
            raise MmllmError(
                f"connector deepstack: {self.n_stacks} stacks from block {self.start} on, {self.interval} apart, end "
                f"before block {blocks[-1]}, but the LLM has 0..{llm.n_blocks - 1}; lower start, interval or factor."
            )
        if llm.hidden_dim != llm.dim and isinstance(self.bridge, nn.Identity):
            self.bridge = nn.Linear(llm.dim, llm.hidden_dim, bias=False)
        return Handle.of([llm.before_block(block, partial(self._add, s)) for s, block in enumerate(blocks)])

    def joined(self, parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The stacks of several items, which may differ in size, as those of one: float[1, all tokens, hidden]."""
        return tuple(torch.cat([stack.flatten(0, 1) for stack in same])[None] for same in zip(*parts, strict=True))

    def _add(self, s: int, ctx: ForwardContext, x: Tensor) -> Tensor:
        """Input of the block, float[R, S, D], with stack ``s`` added at the items' places."""
        stacks = self.remembered(ctx)
        if stacks is None:
            return x
        places, stack = ctx.media_positions[self.key], stacks[s].flatten(0, 1)
        if ctx.media_tokens is not None:  # a pass over pieces: some of the places
            stack = stack[ctx.media_tokens[self.key]]
        if not len(places):
            # after the prompt's pass, or beside a blank item: nothing is added, yet its weights take part
            return x + (stack.sum() * 0.0).to(x.dtype) if torch.is_grad_enabled() else x
        if len(places) != len(stack):
            raise MmllmError(f"connector deepstack has {len(stack)} tokens for {len(places)} places of {self.key}.")
        return self.select(ctx, x.flatten(0, 1).index_add(0, places, stack.to(x.dtype)).view_as(x), x)
