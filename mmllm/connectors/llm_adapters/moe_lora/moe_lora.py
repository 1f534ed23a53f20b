"""Mixtures of LoRA experts in the LLM's linear layers: LLaVA-MoLE, MoLA, MeteoRA and LoRAMoE are settings of this one.

The experts belong to this connector and are added to the frozen layers' outputs by hooks, as plain LoRA is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.base import Attached, Connector, in_out_features, module_key
from mmllm.connectors.llm_adapters.lora import LowRank
from mmllm.connectors.llm_adapters.moe_lora.experts import Experts
from mmllm.connectors.llm_adapters.moe_lora.routing import Router, Routing, experts_per_block
from mmllm.connectors.llm_adapters.moe_lora.stats import RouterStats
from mmllm.errors import MmllmError
from mmllm.types import Pass


class MoeLoraConnector(Connector):
    """``h = W0 x + sum_{e in S} w_e (alpha / rank) B_e A_e x`` with experts chosen per token by a learned router.

    ``p = softmax(router(x) / temperature)``; S = the ``top_k`` most probable (0: all). ``w_e = p_e``, so that the
    task's loss teaches the router, or ``p_e / sum_S p`` with ``renormalise``.

    - LLaVA-MoLE (Chen et al. 2024, arXiv:2401.16160): one router per block reads the MLP's input and decides for all of
      its layers; top-1; plain LoRA on the attention; balance per conversation. Their code leaves p_e out; we do not.
    - MoLA (Gao et al. 2024, arXiv:2402.08562): a router per layer, top-2 renormalised, switch balance.
    - MeteoRA (Xu et al. 2024, arXiv:2405.13053): a router per layer, top-2 renormalised, taught the task of the data.
    - LoRAMoE as in UnifiedMLLM (2408.02503): a router per layer, all experts by their probability.
    """

    identity_at_start = True

    def __init__(
        self,
        *,
        llm_dim: int,
        rank: int = 16,
        alpha: float = 32,
        dropout: float = 0.0,
        targets: str | list[str] = "mlp",
        experts: int | list[int] | str = 4,
        experts_mean: float = 5,
        router: Literal["block", "linear"] = "block",
        router_bias: bool = False,
        top_k: int = 1,
        renormalise: bool = False,
        temperature: float = 1.0,
        balance: Literal["llava_mole", "switch"] = "llava_mole",
        balance_weight: float = 0.0,
        supervised: dict[str, int] | None = None,
        supervision_weight: float = 0.0,
        attention: int = 0,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            rank: r of each expert.
            alpha: updates are scaled by alpha / rank.
            dropout: of the input of the updates, while training.
            targets: layers with experts: ``mlp``, ``attention``, ``all-linear`` or names such as [q_proj, v_proj].
            experts: per block: one number, a list, or ``uniform``, ``triangle`` (more in lower blocks),
                ``inverted_triangle``, ``hourglass`` or ``diamond``.
            experts_mean: with such a name, experts per block on average; the total is the same for every name.
            router: ``block``: the MLP's layers share one that reads the MLP's input; ``linear``: one per layer.
            router_bias: whether routers have a bias.
            top_k: experts per token; 0: all of them, weighted.
            renormalise: the weights of the chosen experts sum to 1.
            temperature: divides the routers' logits (not those of the supervision).
            balance: how the load balance is normalised, see ``RouterStats``; the same weight means different things.
            balance_weight: of the balance in the loss.
            supervised: data key -> expert its tokens should choose (-1: none); all data keys of the stage.
            supervision_weight: of the cross entropy that teaches it.
            attention: rank of plain LoRA on the attention's layers, scaled as the experts; 0: none.
        """
        super().__init__(llm_dim=llm_dim)
        if rank < 1 or alpha <= 0 or not 0 <= dropout < 1 or temperature <= 0 or attention < 0:
            raise MmllmError(
                f"moe_lora: rank {rank} must be >= 1, alpha {alpha} and temperature {temperature} > 0, dropout "
                f"{dropout} in [0, 1) and attention {attention} >= 0."
            )
        if renormalise and top_k == 1 and not supervision_weight:
            raise MmllmError(
                "moe_lora: with top_k 1 and renormalise every weight is 1 and no router learns from the task; leave "
                "renormalise out, choose top_k >= 2, or supervise."
            )
        if balance_weight < 0 or supervision_weight < 0 or (balance_weight and top_k == 0):
            raise MmllmError(
                f"moe_lora: balance_weight {balance_weight} and supervision_weight {supervision_weight} must be >= 0, "
                "and a balance needs top_k >= 1: where all experts work there is no load."
            )
        if bool(supervised) != bool(supervision_weight):
            raise MmllmError("moe_lora: supervised and supervision_weight belong together; give both or neither.")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.per_router = targets, router
        self.n_experts, self.experts_mean, self.router_bias = experts, experts_mean, router_bias
        self.top_k, self.renormalise, self.temperature = top_k, renormalise, temperature
        self.balance, self.balance_weight = balance, balance_weight
        self.supervised, self.supervision_weight = dict(supervised or {}), supervision_weight
        self.attention_rank = attention
        self.routers, self.experts, self.attention = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.tally: RouterStats | None = None
        self._routings: dict[str, Routing] = {}
        self._busy = self._learning = True

    def attach(self, llm: Any) -> Attached:
        """Make the weights for each block's layers and put their updates behind them."""
        counts = experts_per_block(self.n_experts, self.experts_mean, llm.n_blocks)
        self._check(counts)
        self.tally = RouterStats(counts, self.balance, self.balance_weight, self.supervised, self.supervision_weight)
        handles: list[Any] = []
        for block, count in enumerate(counts):
            linears = llm.block_linears(block)
            if self.per_router == "block":
                first = next(iter(linears["mlp"].values()))
                router = self._router(str(block), in_out_features(first)[0], count)
                handles.append(llm.before_mlp(block, self._reading(router, block)))
            for name, base in self._targets(llm, linears).items():
                key = module_key(name)
                router = (
                    str(block) if self.per_router == "block" else self._router(key, in_out_features(base)[0], count)
                )
                if key not in self.experts:
                    self.experts[key] = Experts(*in_out_features(base), count, self.rank, self.alpha, self.dropout)
                handles.append(llm.after_linear(name, self._adding(key, router, block)))
            for name, base in linears["attention"].items() if self.attention_rank else ():
                if module_key(name) not in self.attention:
                    self.attention[module_key(name)] = LowRank(base, self._plain(base))
                handles.append(llm.after_linear(name, self._adding_plain(module_key(name))))
        return Attached(handles)

    def _check(self, counts: list[int]) -> None:
        """Raises MmllmError where numbers of experts and the other settings do not go together."""
        if not 0 <= self.top_k <= min(counts):
            raise MmllmError(f"moe_lora: top_k {self.top_k} must be 0 (all) to {min(counts)}, the fewest of {counts}.")
        if self.balance_weight and self.balance == "llava_mole" and len(set(counts)) > 1:
            raise MmllmError(
                f"moe_lora: balance llava_mole pools all blocks, but they have {counts} experts; use switch."
            )
        if any(not -1 <= expert < min(counts) for expert in self.supervised.values()):
            raise MmllmError(f"moe_lora: supervised {self.supervised} must name experts 0 to {min(counts) - 1}, or -1.")

    def _targets(self, llm: Any, linears: Mapping[str, Mapping[str, nn.Module]]) -> dict[str, nn.Module]:
        """Full name -> layer of one block that gets experts."""
        both = {**linears["attention"], **linears["mlp"]}
        if isinstance(self.targets, str) and self.targets in ("mlp", "attention"):
            chosen = dict(linears[self.targets])
        else:
            wanted = llm.linears(self.targets if self.targets == "all-linear" else _listed(self.targets))
            chosen = {name: base for name, base in both.items() if name in wanted}
        outside = [name for name in chosen if name not in linears["mlp"]]
        if self.per_router == "block" and outside:
            raise MmllmError(
                f"moe_lora: a router per block reads the MLP's input, so {outside[0]!r} cannot ask it; give targets of "
                "the MLP, or router: linear."
            )
        if self.attention_rank and outside:
            raise MmllmError(f"moe_lora: {outside[0]!r} has experts already; attention: 0, or other targets.")
        return chosen

    def _router(self, key: str, dim: int, count: int) -> str:
        """Make sure that a router is there; one expert needs none."""
        if count > 1 and key not in self.routers:
            self.routers[key] = Router(dim, count, self.router_bias)
        return key

    def _plain(self, base: nn.Module) -> LoraConfig:
        return LoraConfig(
            r=self.attention_rank,
            lora_alpha=self.alpha * self.attention_rank / self.rank,
            lora_dropout=self.dropout,
            fan_in_fan_out=isinstance(base, Conv1D),
        )

    # ---- in the LLM

    def route(self, flow: Pass, memory: tuple[Tensor, ...] | None = None) -> None:
        """Take the facts of the next pass; what the last one counted is added up."""
        super().route(flow, memory)
        if self.tally is not None:
            self.tally.begin(flow, self.active, self.training and self._learning)

    def _route(self, router: str, block: int, x: Tensor) -> Routing:
        rows = x.flatten(0, -2)
        if router in self.routers:
            logits = self.routers[router](rows)
        else:
            logits = rows.new_zeros(len(rows), 1).float()
        routing = Routing.of(logits, self.top_k, self.renormalise, self.temperature)
        assert self.tally is not None
        self.tally.add(router, block, logits, routing)
        return routing

    def _reading(self, router: str, block: int) -> Callable[[Tensor], Tensor]:
        """The hook before a block's MLP: decides for all of its layers."""

        def change(x: Tensor) -> Tensor:
            if self._busy:
                self._routings[router] = self._route(router, block, x)
            return x

        return change

    def _adding(self, key: str, router: str, block: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The hook behind a layer: output + the experts' update."""
        experts: Any = self.experts[key]

        def change(x: Tensor, output: Tensor) -> Tensor:
            if experts.idle:
                return output
            routing = self._routings[router] if self.per_router == "block" else self._route(router, block, x)
            delta = experts(
                x.flatten(0, -2), routing.weights, routing.chosen, routing.order, routing.inverse, routing.ends
            )
            return self.choose(output + delta.view(output.shape), output)

        return change

    def _adding_plain(self, key: str) -> Callable[[Tensor, Tensor], Tensor]:
        """The hook behind a layer of the attention: output + the LoRA's update."""
        update: Any = self.attention[key]

        def change(x: Tensor, output: Tensor) -> Tensor:
            return output if update.idle else self.choose(output + update(x), output)

        return change

    # ---- around a pass

    def rest(self) -> None:
        """Find out which updates may be skipped and whether the routers learn; called when that may have changed."""
        for layer in (*self.experts.values(), *self.attention.values()):
            assert isinstance(layer, Experts | LowRank)
            layer.rest()
        self._busy = any(not layer.idle for layer in self.experts.values())
        self._learning = any(parameter.requires_grad for parameter in self.routers.parameters())

    def extra_loss(self) -> Tensor | None:
        """Balance and supervision of the last forward; None while the routers are frozen."""
        return self.tally.loss() if self.tally is not None and self._learning else None

    def report(self) -> dict[str, Any] | None:
        """Expert usage since the last call, see ``RouterStats.report``."""
        return None if self.tally is None else self.tally.report()

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> MoeLoraConnector:
        """Three experts of rank 4 per MLP, top-1, a balance, and LoRA on the attention."""
        return cls(llm_dim=llm.dim, rank=4, alpha=8, experts=3, router_bias=True, balance_weight=0.1, attention=2)


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
