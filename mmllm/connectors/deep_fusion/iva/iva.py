"""The ``iva`` connector: one token per frame, and layers of the LLM that look again at frames the question asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Attached, Connector
from mmllm.connectors.deep_fusion.iva.layer import IvaLayer
from mmllm.connectors.deep_fusion.iva.turns import Turns, owners_of, turns_of
from mmllm.connectors.layers.temporal import Block, earlier, frames_in, frames_of, in_time
from mmllm.errors import MmllmError
from mmllm.types import Features, Pass


class IvaConnector(Connector):
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

    identity_at_start = True
    ragged = True
    reads_questions = True
    tiny_grid = (4, 2, 2)

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
        self.selector_width, self.score, self.select = selector_width, score, select
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

    def tokens(self, grid: Sequence[int]) -> int:
        """One for each frame; 1 for a picture."""
        return frames_in(grid, "iva")

    def steps(self, grid: Sequence[int]) -> int:
        """Each frame is one step."""
        return frames_in(grid, "iva")

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """float[N, T, dim] -> float[N, F, llm_dim]; keeps the patches, and room for what each layer chooses."""
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
        self.memory = (patches, real, chosen)
        return self.output(self.output_norm(x))

    # ---- in the LLM

    def attach(self, llm: Any) -> Attached:
        """Make the layers and put them before their blocks."""
        blocks = tuple(range(self.every - 1, llm.n_blocks, self.every)) if self.blocks is None else self.blocks
        if not blocks or not all(0 <= block < llm.n_blocks for block in blocks) or len(set(blocks)) < len(blocks):
            given = f"every: {self.every}" if self.blocks is None else f"blocks: {list(blocks)}"
            raise MmllmError(
                f"connector iva {given} must name at least one of the LLM's blocks 0..{llm.n_blocks - 1}, none twice."
            )
        for key in map(str, blocks):
            if key not in self.layers:
                layer = IvaLayer(llm.hidden_dim, self.dim, self.heads, self.head_dim, self.selector_width, self.score)
                if self.select == "uniform":
                    layer.register_module("selector", None)
                self.layers[key] = layer
        return Attached([llm.before_block(block, partial(self._change, n)) for n, block in enumerate(blocks)])

    def _change(self, number: int, x: Tensor) -> Tensor:
        """What enters the block: float[R, S, D]; ``number`` counts the layers."""
        if self.memory is None:
            return x
        assert self.flow is not None and self.source is not None
        patches, real, kept = self.memory
        layer: Any = list(self.layers.values())[number]
        states = x.flatten(0, 1)
        # ranks must do the same while they learn, so only without gradients may a choice be taken from memory
        if torch.is_grad_enabled() or _asks(self.flow):
            turns = turns_of(self.flow, self.source, len(patches))
            frames, weights = self._choose_frames(layer, states, turns, patches, real)
            if not torch.is_grad_enabled():
                _keep(kept[number], turns, frames, weights)
            positions, of = turns.positions, turns.of
        else:
            positions, of, frames, weights = self._recalled(self.flow, kept[number])
        delta = layer.interactor(states[positions], of, frames, weights, patches, real)
        return self.choose(states.index_add(0, positions, delta.to(x.dtype)).view_as(x), x)

    def _choose_frames(
        self, layer: Any, states: Tensor, turns: Turns, patches: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Frames int64[G, k] into N * F that each message asks for, and their weights float[G, k]."""
        if layer.selector is None:
            return _uniform(turns.candidates, real.any(dim=-1), self.top_k)
        u = self.asked(turns, states, patches)
        return layer.selector(u, patches, real, turns.candidates, self.top_k)

    def asked(self, turns: Turns, states: Tensor, patches: Tensor) -> Tensor:
        """u float[G, D] in the dtype of ``patches``: the mean of states float[R * S, D] over each message's text."""
        shares = functional.normalize(turns.asked.to(patches.dtype), p=1.0, dim=1)
        return shares @ states.to(patches.dtype)

    def _recalled(self, flow: Pass, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(positions, group of each, frames, weights) in a step: what the last message of each conversation chose."""
        assert self.source is not None
        n_rows = len(flow.sources)
        owned = owners_of(flow, self.source, len(kept)) == torch.arange(n_rows, device=kept.device)[:, None]
        weights, frames = (kept * owned[..., None]).flatten(1).topk(min(self.top_k, kept.numel()), dim=1)
        frames = torch.where(weights > 0, frames, frames[:, :1])
        ids = flow.sequence_ids.flatten()
        positions = (flow.real.flatten() & (weights[:, 0] > 0)[ids]).nonzero().squeeze(-1)
        return positions, ids[positions], frames, weights

    def chosen(self) -> Tensor | None:
        """float[layers, N, F]: weight of each frame for the last message, in the last pass without gradients."""
        return None if self.memory is None else self.memory[2]

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> IvaConnector:
        """Two frames of four, before blocks 1 and 3 of four."""
        return cls(dim=dim, llm_dim=llm.dim, heads=2, head_dim=4, width=16, every=2, top_k=2, selector_width=8)


def _asks(flow: Pass) -> bool:
    """Whether some position of this pass is text of the user."""
    return flow.questions is None or bool((flow.questions >= 0).any())


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
