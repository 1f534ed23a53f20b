"""The ``layerwise`` connector: pictures as extra keys and values of every block's attention, none in the sequence.

OUR RECONSTRUCTION of PUMGPT's layer-wise adapters: the text of the published first version could not be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from mmllm.connectors.base import DeepFusion, Projector
from mmllm.connectors.layers.prompt_attention import HeadGate, extra_attention
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.projectors.resampler import ResamplerConnector
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features, Grid


class LayerwiseConnector(DeepFusion):
    """Per-layer visual keys and values through zero-gated attention; a reconstruction of arXiv 2308.09568 v1 (PUMGPT).

    With K latents of width d_a from one resampler that all layers share, in each of ``layers``::

        F   = resampler(X)                      float[N, K, d_a]
        V_l = P_l + B_l A_l LN(F)               float[N, K, D], P_l a static prompt, A_l and B_l of low rank
        o_l = Attn_frozen(h_l) + tanh(g_l) * softmax(q_l K_l(V_l)^T / sqrt(d)) Val_l(V_l)     g_l = 0 per head

    K_l and Val_l are the block's own frozen projections, without position encoding. A position sees all items of its
    conversation that have started (the softmax is over their K latents each); one that sees none keeps its attention
    as it was, the static prompts included. The tokens of an item never enter the sequence.

    ``grid`` puts an average pool, a LayerNorm before it and a linear layer after it, where the resampler is: where
    something is in the picture then need not be learned, which takes a resampler long (see ``pool``).

    A new task needs only ``train: {connectors.<key>.tasks: ...}``: the prompts P_l and gates g_l. Putting back the
    tensors of an earlier task brings that task back bit for bit. The resampler and the maps B_l A_l are shared.
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
        tokens: int | None = None,
        grid: Sequence[int] | None = None,
        rank: int = 64,
        layers: Sequence[int] | None = None,
        width: int = 512,
        depth: int = 2,
        heads: int = 8,
        head_dim: int = 64,
    ) -> None:
        """Set up the shared resampler; the layers' weights come with ``attach``.

        Args:
            dim: width of the features.
            llm_dim: width of the LLM's embeddings.
            tokens: K, latents of one item; None: 8, or with ``grid`` its cells.
            grid: of an average pool (as ``pool`` has it) that takes the resampler's place, and gives K.
            rank: of the map from the latents to the LLM, per layer.
            layers: blocks of the LLM that read the items, counted from 0; None: all.
            width: d_a, of the latents.
            depth: blocks of the resampler.
            heads: attention heads of the resampler.
            head_dim: width of each.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if grid is not None and tokens is not None:
            raise MmllmError(
                f"connector layerwise tokens: {tokens} beside grid: {list(grid)}, which gives their number."
            )
        self.n_latents = 8 if tokens is None else tokens
        for name, value in {"tokens": self.n_latents, "rank": rank, "width": width}.items():
            if value < 1:
                raise MmllmError(f"connector layerwise {name}: {value} must be at least 1.")
        self.rank, self.width = rank, width
        self.layers = None if layers is None else tuple(layers)
        self.resampler: Projector
        if grid is None:
            self.resampler = ResamplerConnector(
                dim=dim, llm_dim=width, latents=self.n_latents, depth=depth, heads=heads, head_dim=head_dim, width=width
            )
        else:
            self.resampler = PoolConnector(dim=dim, llm_dim=width, grid=grid, depth=1, norm=True)
            self.n_latents = prod(grid)
        self.norm = nn.LayerNorm(width)
        self.maps = nn.ModuleDict()
        self.tasks = nn.ModuleDict()

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of nothing: items take no places in the sequence.

        Raises:
            MmllmError: an item of this grid would not give K latents.
        """
        found = self.resampler.n_tokens(grid)
        if found != self.n_latents:
            raise MmllmError(
                f"connector layerwise keeps {self.n_latents} latents of an item; {tuple(grid)} gives {found}."
            )
        return (0,)

    def remember(self, features: Features) -> Tensor:
        """Resample features float[N, T, dim]: LN(F) float[N, K, d_a]."""
        self.out_grid(features.grid)
        latents: Tensor = self.norm(self.resampler(features))
        return latents

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make prompts, gates and maps of each layer and extend its attention.

        Raises:
            MmllmError: ``layers`` names blocks that the LLM has not got, or one twice.
        """
        layers = self._layers(llm.n_blocks)
        for key in map(str, layers):
            if key not in self.tasks:
                self.maps[key] = LowRankMap(self.width, self.rank, llm.hidden_dim)
                self.tasks[key] = Task(self.n_latents, llm.hidden_dim, llm.heads)
        return Handle.of([llm.extend_attention(index, partial(self._extend, llm, index)) for index in layers])

    def _layers(self, n_blocks: int) -> tuple[int, ...]:
        layers = tuple(range(n_blocks)) if self.layers is None else self.layers
        if not layers or len(set(layers)) < len(layers) or not all(0 <= index < n_blocks for index in layers):
            raise MmllmError(
                f"connector layerwise layers: {list(layers)} must name blocks of the LLM, none twice; it has "
                f"{n_blocks}, so 0..{n_blocks - 1}."
            )
        return layers

    def _extend(
        self, llm: LLMHookPoints, index: int, ctx: ForwardContext, query: Tensor, output: Tensor, scaling: float
    ) -> Tensor:
        """Attention of block ``index`` with the items it sees: float[R, S, heads, d]."""
        latents = self.remembered(ctx)
        if latents is None:
            return output
        task = self.tasks[str(index)]
        assert isinstance(task, Task)
        states = task(self.maps[str(index)](latents))
        key, value = llm.keys_values(index, states.flatten(0, 1).to(query.dtype))
        seen = self._seen(ctx, len(latents))
        extra = extra_attention(query, key, value, scaling, seen)
        changed = output + task.gate(extra).to(output.dtype)
        # bit for bit what it was where nothing is seen: adding zeros would turn -0.0 into 0.0
        changed = torch.where(seen.any(dim=-1)[..., None, None], changed, output)
        return self.select(ctx, changed.flatten(2), output.flatten(2)).view_as(output)

    def _seen(self, ctx: ForwardContext, n_items: int) -> Tensor:
        """Mask bool[R, S, n_items * K]: the latents of the items of its own conversation that have started."""
        owners, last = ctx.item_sequence[self.key], ctx.last_item[self.key]
        if not len(owners):  # the blank item of a training batch without media
            return torch.zeros(*last.shape, n_items * self.n_latents, dtype=torch.bool, device=last.device)
        started = torch.arange(n_items, device=last.device) <= last[..., None]
        own = owners == ctx.sequence_ids[..., None]
        return (started & own).repeat_interleave(self.n_latents, dim=-1)


class LowRankMap(nn.Module):
    """Map B A x from the latents to one layer's input; at the start of about the size of a normed hidden state."""

    def __init__(self, width: int, rank: int, out: int) -> None:
        super().__init__()
        self.a = nn.Linear(width, rank, bias=False)
        self.b = nn.Linear(rank, out, bias=False)
        # unit variance in, unit variance out: what the frozen projections are used to
        nn.init.normal_(self.a.weight, std=width**-0.5)
        nn.init.normal_(self.b.weight, std=rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map float[N, K, d_a] to float[N, K, D]."""
        return self.b(self.a(x))


class Task(nn.Module):
    """Weights of one task in one layer: the static prompts P_l and the gates g_l of the heads (at zero)."""

    def __init__(self, tokens: int, dim: int, heads: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.gate = HeadGate(heads)

    def forward(self, visual: Tensor) -> Tensor:
        """Add the prompts: P_l + visual, float[N, K, D]."""
        return self.prompts + visual
