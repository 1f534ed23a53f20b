"""PILL inside the LLM: adapters before attention and MLP, the MLP's chosen by modality; gates on visual values.

Zhang et al. 2023, arXiv:2311.02126, after the authors' code (DsaltYfish/PILL): MoMAE and MAG. One in every block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.base import LLMAdapter
from mmllm.errors import MmllmError
from mmllm.hooks import Change, ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class GluAdapter(nn.Module):
    """``x + up(silu(gate(x)) * down(x))``, no biases; ``x`` itself at the start, because ``up`` is zero."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, width, bias=False)
        self.down = nn.Linear(dim, width, bias=False)
        self.up = nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D], in the dtype of ``x``."""
        wide = x.to(self.up.weight.dtype)
        return x + self.up(F.silu(self.gate(wide)) * self.down(wide)).to(x.dtype)


class ValueGate(nn.Module):
    """``tanh(w_n . a) * v_n`` for each head n of the values; 0 at the start, because ``w`` is."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Linear(dim, heads, bias=False)
        nn.init.zeros_(self.weight.weight)

    def forward(self, a: Tensor, values: Tensor) -> Tensor:
        """``a`` float[..., D] and ``values`` float[..., heads * d] -> float[..., heads * d]."""
        gate = torch.tanh(self.weight(a.to(self.weight.weight.dtype))).to(values.dtype)
        return (values.unflatten(-1, (self.heads, -1)) * gate.unsqueeze(-1)).flatten(-2)


class PillConnector(LLMAdapter):
    """PILL (Zhang et al. 2023, arXiv 2311.02126): adapters before attention and MLP by modality, value gates.

    Adapters on the inputs of every block, those of the MLP one per modality; gates on visual values.

    With m_t true where position t is filled by media, a and n2 what attention and MLP of a block receive::

        G(x) = W_up(silu(W_g x) * W_d x)                   W_up = 0 at the start
        a'   = a + G_attention(a)
        v_t  = W_v a'_t;   v_t^n *= tanh(w_n . a'_t) where m_t, per (key and value) head n;   w = 0 at the start
        n2'  = n2 + (G_visual(n2) where m_t, else G_text(n2))

    A value gate of 0 leaves the LLM as it is only where no media are: visual keys still take their share of the
    softmax. Without ``value_gate`` the start is the LLM itself.

    Two positions are treated otherwise than by the equations, neither of which the authors' prompts have. The first
    of a conversation is never gated: it reads only itself, and where a norm follows an attention that gives exactly 0
    (Gemma, OLMo 2) gradients explode. The last block has no G_visual, G_text serves all: nobody reads a media position
    after that block, so it would never learn (the authors' code inverts m_t there).
    """

    attaches_to_parts = True
    goes_on = True
    shares_prefix = True

    def __init__(self, *, llm_dim: int, width: int = 32, value_gate: bool = True, shared: bool = False) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            width: of the adapters' bottleneck.
            value_gate: gate the values of media positions (MAG).
            shared: one MLP adapter for all positions, as wide as the two together, so of as many weights (to compare).
        """
        super().__init__(llm_dim=llm_dim)
        if width < 1:
            raise MmllmError(f"pill: width {width} must be at least 1.")
        self.width, self.value_gate, self.shared = width, value_gate, shared
        self.zero_init = not value_gate
        self.attention = nn.ModuleDict()
        self.visual = nn.ModuleDict()
        self.text = nn.ModuleDict()
        self.both = nn.ModuleDict()
        self.gates = nn.ModuleDict()

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the weights of every block, once, and hook them into it."""
        if not self.attention:
            for index in range(llm.n_blocks):
                self._make(llm, str(index), last=index == llm.n_blocks - 1)
        handles: list[Handle] = []
        for index in range(llm.n_blocks):
            handles += [
                llm.before_attention(index, self._before_attention(str(index))),
                llm.before_mlp(index, self._before_mlp(str(index))),
            ]
            if self.value_gate:
                name, columns = llm.value_projection(index)
                handles.append(llm.after_linear(name, self._after_values(str(index), columns)))
        return Handle.of(handles)

    def _make(self, llm: LLMHookPoints, key: str, last: bool) -> None:
        self.attention[key] = GluAdapter(llm.hidden_dim, self.width)
        if self.shared:
            self.both[key] = GluAdapter(llm.hidden_dim, self.width if last else 2 * self.width)
        else:
            self.text[key] = GluAdapter(llm.hidden_dim, self.width)
            if not last:
                self.visual[key] = GluAdapter(llm.hidden_dim, self.width)
        if self.value_gate:
            self.gates[key] = ValueGate(llm.hidden_dim, llm.kv_heads)

    def _before_attention(self, key: str) -> Change:
        def change(ctx: ForwardContext, x: Tensor) -> Tensor:
            return self.select(ctx, self.attention[key](x), x)

        return change

    def _before_mlp(self, key: str) -> Change:
        def change(ctx: ForwardContext, x: Tensor) -> Tensor:
            changed = (self.both if self.shared else self.text)[key](x)
            if key in self.visual:
                # both for every position: they are small, and every rank then runs the same layers
                changed = torch.where(_like(_media(ctx), x), self.visual[key](x), changed)
            return self.select(ctx, changed, x)

        return change

    def _after_values(self, key: str, columns: slice) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            gated = output.clone()  # the layer's own output stays, for the positions that are not gated
            gated[..., columns] = self.gates[key](x, output[..., columns])
            return self.select(ctx, torch.where(_like(_gated(ctx), output), gated, output), output)

        return change


def _media(ctx: ForwardContext) -> Tensor:
    """bool[R, S, 1], positions filled by media."""
    return ctx.once(("pill", "media"), lambda: ctx.media_mask()[..., None])


def _gated(ctx: ForwardContext) -> Tensor:
    """bool[R, S, 1], positions whose values are gated: those of media, but for the first of each conversation."""

    def make() -> Tensor:
        # by its position, not its place in the row: a pass may begin in the middle of a conversation
        starts = (ctx.position_ids == 0).all(dim=0)
        return _media(ctx) & ~starts[..., None]

    return ctx.once(("pill", "gated"), make)


def _like(chosen: Tensor, x: Tensor) -> Tensor:
    """Positions in as many axes as ``x`` has: some layers see rows float[R * S, D] instead of float[R, S, D]."""
    return chosen if x.dim() == 3 else chosen.flatten(0, 1)
