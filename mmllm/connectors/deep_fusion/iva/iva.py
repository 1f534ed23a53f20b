"""The ``iva`` connector: one token per frame, and layers of the LLM that look again at frames the question asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.deep_fusion.iva.layer import IvaLayer
from mmllm.connectors.deep_fusion.iva.turns import Turns, owners_of, turns_of
from mmllm.connectors.layers.temporal import Block, earlier, frames_in, frames_of, in_time
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features, Grid


class Remembered(NamedTuple):
    """Clips that the layers inside the LLM look at again.

    A tuple, no dataclass: DeepSpeed's ZeRO-3 looks for the tensors that a module returns in tuples, lists and dicts.
    """

    patches: Tensor
    """float[N, F, P, D], after the norm."""
    real: Tensor
    """bool[N, F, P]."""
    chosen: Tensor
    """float[layers, N, F], weight of each frame for the last message of its conversation; written by the pass over the
    prompt and read in the steps after it, without gradients only."""


class IvaConnector(DeepFusion):
    """The Interactive Visual Adapter (arXiv 2402.13546) for long videos; without official code, details are ours.

    Frame t has patches f_t (after a LayerNorm). The LLM's sequence gets one token for each frame::

        s_t = softmax over patches (w f_t);  a_t = sum_i s_ti f_ti;  z = W_o LN CausalTransformer(W_a a + positions)

    Before chosen blocks of the LLM, every position after the first word of a user's message reads patches of the few
    frames that this message asks for::

        u = mean of that block's input over the message's text, and nothing else;  r_t = max_i <W_q u, W_k f_ti> / √d
        I = the ``top_k`` highest r_t;  w = softmax of r over I
        h += tanh(gamma) W_o sum_{t in I} w_t CrossAttn(Q = W_h LN(h), K = V = W_v f_t)      gamma = 0 at the start

    The message alone decides, so a cached decoding keeps the choice of its first pass. The frames to choose from are
    those of all clips of the conversation shown up to the position. Conversations without clips stay bit-identical.
    """

    attaches_to_parts = True

    zero_init = True
    accepts_padding = True
    reads_user_turn = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        depth: int = 1,
        heads: int = 8,
        head_dim: int = 64,
        width: int | None = None,
        every: int = 4,
        blocks: Sequence[int] | None = None,
        top_k: int = 4,
        selector_width: int = 256,
        score: Literal["best", "mean"] = "best",
        select: Literal["question", "uniform"] = "question",
    ) -> None:
        """Set up what makes the tokens; the layers inside the LLM come with ``attach``.

        Args:
            dim: width of the features.
            llm_dim: width of the LLM's embeddings.
            depth: blocks of the causal transformer over time.
            heads: of that transformer and of the layers inside the LLM.
            head_dim: width of a head inside the LLM.
            width: of the transformer over time; None: the LLM's.
            every: n; layers stand before blocks n - 1, 2n - 1, ... counted from 0.
            blocks: instead of ``every``: the blocks before which layers stand.
            top_k: frames a question chooses, at least 2: a single one has weight 1 and teaches the selector nothing.
            selector_width: d of the selector's product.
            score: whether a frame counts by its best patch or by the mean of its patches.
            select: ``uniform``: instead of asking, ``top_k`` frames at equal distances with equal weights (a baseline).
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value, least in (("every", every, 1), ("top_k", top_k, 2), ("selector_width", selector_width, 1)):
            if value < least:
                raise MmllmError(f"connector iva {name}: {value} must be at least {least}.")
        for name, word, known in (("score", score, ("best", "mean")), ("select", select, ("question", "uniform"))):
            if word not in known:
                raise MmllmError(f"connector iva {name}: {word!r} is unknown; known: {', '.join(known)}.")
        self.heads, self.head_dim, self.top_k, self.every = heads, head_dim, top_k, every
        self.selector_width, self.score, self.selects_by = selector_width, score, select
        self.blocks = None if blocks is None else tuple(blocks)
        inner = llm_dim if width is None else width
        self.width = inner
        self.norm = nn.LayerNorm(dim)
        self.weigh = nn.Linear(dim, 1, bias=False)
        self.input = nn.Linear(dim, inner)
        self.time = nn.ModuleList(Block(inner, heads) for _ in range(depth))
        self.output_norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, llm_dim)
        self.layers = nn.ModuleDict()

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid (frames, 1, 1): one token for each frame; a picture is one."""
        return (frames_in(grid, "iva"), 1, 1)

    def forward(self, features: Features) -> tuple[Tensor, Remembered]:
        """Features float[N, T, dim] -> (tokens float[N, F, llm_dim], what the layers read)."""
        patches, real = frames_of(features, "iva")
        patches = self.norm(patches)
        scores = self.weigh(patches).squeeze(-1).masked_fill(~real, torch.finfo(patches.dtype).min)
        pooled = (scores.softmax(dim=-1)[..., None] * patches).sum(dim=-2)
        n_frames = pooled.shape[1]
        x = self.input(pooled)
        x = x + in_time(n_frames, self.width, x)
        seen = earlier(n_frames, x)[None]
        for block in self.time:
            x = block(x, seen)
        chosen = patches.new_zeros(len(self.layers), *real.shape[:2])
        return self.output(self.output_norm(x)), Remembered(patches, real, chosen)

    # ---- in the LLM

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the layers and put them before their blocks.

        Raises:
            MmllmError: they would stand before no block, before one that the LLM has not got, or twice before one.
        """
        blocks = tuple(range(self.every - 1, llm.n_blocks, self.every)) if self.blocks is None else self.blocks
        if not blocks or not all(0 <= block < llm.n_blocks for block in blocks) or len(set(blocks)) < len(blocks):
            given = f"every: {self.every}" if self.blocks is None else f"blocks: {list(blocks)}"
            raise MmllmError(
                f"connector iva {given} must name at least one of the LLM's blocks 0..{llm.n_blocks - 1}, none twice."
            )
        for key in map(str, blocks):
            if key not in self.layers:
                layer = IvaLayer(llm.hidden_dim, self.dim, self.heads, self.head_dim, self.selector_width, self.score)
                if self.selects_by == "uniform":
                    # no weights that would never get a gradient
                    layer.register_module("selector", None)
                self.layers[key] = layer
        return Handle.of([llm.before_block(block, partial(self._change, n)) for n, block in enumerate(blocks)])

    def _change(self, number: int, ctx: ForwardContext, x: Tensor) -> Tensor:
        """Input of the block, float[R, S, D], with what its layer read; ``number`` counts the layers."""
        seen: Remembered | None = self.remembered(ctx)
        if seen is None:
            return x
        kept = seen.chosen[number]
        layer: Any = list(self.layers.values())[number]
        states = x.flatten(0, 1)
        # ranks must do the same while they learn, so only without gradients may an earlier choice be taken
        if torch.is_grad_enabled() or _asks(ctx):
            turns = turns_of(ctx, self.key, len(seen.patches))
            frames, weights = self._choose_frames(layer, states, turns, seen)
            if not torch.is_grad_enabled():
                _keep(kept, turns, frames, weights)
            positions, of = turns.positions, turns.of
        else:
            positions, of, frames, weights = self._recalled(ctx, kept)
        delta = layer.interactor(states[positions], of, frames, weights, seen.patches, seen.real)
        return self.select(ctx, states.index_add(0, positions, delta.to(x.dtype)).view_as(x), x)

    def _choose_frames(self, layer: Any, states: Tensor, turns: Turns, seen: Remembered) -> tuple[Tensor, Tensor]:
        """Frames int64[G, k] into N * F that each message asks for, and their weights float[G, k]."""
        if layer.selector is None:
            return _uniform(turns.candidates, seen.real.any(dim=-1), self.top_k)
        u = self.asked(turns, states, seen.patches)
        return layer.selector(u, seen.patches, seen.real, turns.candidates, self.top_k)

    def asked(self, turns: Turns, states: Tensor, patches: Tensor) -> Tensor:
        """Questions u float[G, D] in the dtype of ``patches``: means of states float[R * S, D] over messages' texts."""
        shares = functional.normalize(turns.asked.to(patches.dtype), p=1.0, dim=1)
        return shares @ states.to(patches.dtype)

    def _recalled(self, ctx: ForwardContext, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choice of the last message of each conversation, in a step: (positions, group of each, frames, weights)."""
        n_rows = len(ctx.dataset_names)
        owned = owners_of(ctx, self.key, len(kept)) == torch.arange(n_rows, device=kept.device)[:, None]
        weights, frames = (kept * owned[..., None]).flatten(1).topk(min(self.top_k, kept.numel()), dim=1)
        frames = torch.where(weights > 0, frames, frames[:, :1])
        ids = ctx.sequence_ids.flatten()
        positions = (ctx.attention_mask.flatten() & (weights[:, 0] > 0)[ids]).nonzero().squeeze(-1)
        return positions, ids[positions], frames, weights

    def chosen(self, ctx: ForwardContext) -> Tensor | None:
        """Weight of each frame for the last message, float[layers, N, F]; None: no clips. Without gradients only."""
        seen: Remembered | None = self.remembered(ctx)
        return None if seen is None else seen.chosen


def _asks(ctx: ForwardContext) -> bool:
    """Whether some position of this pass is text of the user."""
    return ctx.user_turn is None or bool((ctx.user_turn >= 0).any())


def _keep(kept: Tensor, turns: Turns, frames: Tensor, weights: Tensor) -> None:
    """Write what the last message of each conversation chose into ``kept`` float[N, F]."""
    kept.zero_()
    following = turns.conversations.roll(-1)
    last = following != turns.conversations
    last[-1:] = True
    chosen = last[:, None] & (weights > 0)
    # summed: where there are few frames the same one may stand for several
    kept.view(-1).index_put_((frames[chosen],), weights[chosen], accumulate=True)


def _uniform(candidates: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Frames int64[G, k] at equal distances among the candidates bool[G, N] with ``real`` bool[N, F]; equal weights."""
    allowed = (candidates[:, :, None] & real).flatten(1)
    count = allowed.sum(dim=1, keepdim=True)
    steps = torch.arange(k, device=real.device)
    # the middle of each of k equal parts
    wanted = ((steps + 0.5) * count / k).long()
    ranks = allowed.long().cumsum(dim=1) - 1
    frames = torch.searchsorted(ranks, wanted)
    return frames.clamp(max=allowed.shape[1] - 1), torch.full(frames.shape, 1 / k, device=real.device)
