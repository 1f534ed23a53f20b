"""The ``mixture_of_adapters`` connector: adapters shared by pictures and clips, and own ones, mixed per token (S4D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter
from mmllm.connectors.layers.bottleneck import ACTIVATIONS, Bottleneck
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints


class MixtureOfAdaptersConnector(BlockAdapter):
    """``h + MLP(LN h) + sum_e p_e A_e(LN h)`` with p = softmax of a gate of the medium (after S4D's MoAE).

    S4D (Chen et al. 2024, arXiv 2409.06154) trains one encoder for pictures and for clips; adapters that both use and
    gates per task keep them from disturbing each other. The exact form of its module could not be verified; this one
    is ours: the encoders that ``adapts`` names share ``experts`` bottlenecks beside each MLP and have ``own`` of their
    own; each has a gate of its own over those it may use, soft (all take part). ``gate``: a linear map of each
    token, or one learned number per expert for the whole ``medium``. Every ``up`` starts at zero, so an untrained one
    changes nothing bit for bit. ``experts: 1, own: 0`` is one shared adapter.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        experts: int = 2,
        own: int = 1,
        width: int = 64,
        gate: Literal["token", "medium"] = "token",
        activation: Literal["relu", "gelu", "silu"] = "gelu",
        dropout: float = 0.0,
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            experts: bottlenecks in each block that all encoders share.
            own: further ones for each encoder.
            width: of each bottleneck.
            gate: what decides about their shares, see above.
            activation: between the two projections.
            dropout: after the activation, while training.
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="mixture_of_adapters", blocks=blocks)
        if min(experts, own) < 0 or experts + own < 1 or width < 1 or not 0 <= dropout < 1:
            raise MmllmError(
                f"mixture_of_adapters: experts {experts} and own {own} must be >= 0 and one of them >= 1, width "
                f"{width} >= 1 and dropout {dropout} in [0, 1)."
            )
        if gate not in ("token", "medium") or activation not in ACTIVATIONS:
            raise MmllmError(
                f"mixture_of_adapters: gate {gate!r} must be token or medium, activation {activation!r} one of "
                f"{', '.join(ACTIVATIONS)}."
            )
        self.n_shared, self.n_own, self.width = experts, own, width
        self.gate, self.activation, self.dropout = gate, activation, dropout
        self.experts = nn.ModuleDict()
        self.gates = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """The experts this encoder may use and its gate, beside the MLP."""
        self.same_width(self.gates, points, key)

        def make() -> Bottleneck:
            return Bottleneck(points.dim, self.width, self.activation, 1.0, self.dropout)

        # shared experts have no encoder in their name, so every encoder finds them
        names = [f"{block}-{n}" for n in range(self.n_shared)] + [f"{key}-{block}-{n}" for n in range(self.n_own)]
        experts = [self.kept(self.experts, name, make, encoder) for name in names]

        def new_gate() -> nn.Module:
            return Gate(points.dim, len(experts), self.gate == "token") if len(experts) > 1 else SingleGate()

        gate = self.kept(self.gates, f"{key}-{block}", new_gate, encoder)
        return [points.add_after_mlp(block, _mixed(experts, gate))]

    def skip_if_zero(self) -> None:
        """Skip experts that are frozen and still zero."""
        for expert in self.experts.values():
            assert isinstance(expert, Bottleneck)
            expert.skip_if_zero()


class Gate(nn.Module):
    """Shares of the experts, which sum to 1: float[..., D] -> float[..., experts]."""

    def __init__(self, dim: int, n_experts: int, per_token: bool) -> None:
        """``per_token``: by a linear map of the token; else the same for all."""
        super().__init__()
        self.linear = nn.Linear(dim, n_experts) if per_token else None
        self.logits = None if per_token else nn.Parameter(torch.zeros(n_experts))

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> shares float[..., experts]."""
        if self.linear is not None:
            return self.linear(x).softmax(dim=-1)
        assert self.logits is not None
        return self.logits.softmax(dim=-1).expand(*x.shape[:-1], -1)


class SingleGate(nn.Module):
    """The gate of a single expert."""

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> ones of [..., 1]."""
        return x.new_ones(*x.shape[:-1], 1)


def _mixed(experts: Sequence[Bottleneck], gate: nn.Module) -> ChangeOutput:
    """Function that adds what the experts give together."""

    def add(_: EncoderContext, __: Tensor, normed: Tensor) -> Tensor:
        if all(expert.idle for expert in experts):
            return normed.new_zeros(()).expand_as(normed)
        x = normed.float()
        shares = gate(x).split(1, dim=-1)
        added = [share * expert(x) for share, expert in zip(shares, experts, strict=True)]
        return torch.stack(added).sum(dim=0)

    return add
