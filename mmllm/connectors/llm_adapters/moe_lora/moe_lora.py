"""Mixtures of LoRA experts in the LLM's linear layers: LLaVA-MoLE, MoLA, MeteoRA and LoRAMoE are settings of this one.

The experts belong to this connector and are added to the frozen layers' outputs by hooks, as plain LoRA is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.base import LLMAdapter
from mmllm.connectors.layers.basics import in_out_features, module_key
from mmllm.connectors.llm_adapters.lora import LowRank, adding
from mmllm.connectors.llm_adapters.moe_lora import usage
from mmllm.connectors.llm_adapters.moe_lora.arguments import check_balance, check_losses, check_sizes
from mmllm.connectors.llm_adapters.moe_lora.experts import Experts
from mmllm.connectors.llm_adapters.moe_lora.goals import Goals
from mmllm.connectors.llm_adapters.moe_lora.routing import Router, Routing, experts_per_block
from mmllm.connectors.llm_adapters.moe_lora.stats import RouterStats
from mmllm.connectors.llm_adapters.moe_lora.targets import GROUPS, with_experts
from mmllm.errors import MmllmError
from mmllm.hooks import Change, ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class MoeLoraConnector(LLMAdapter):
    """Mixture of LoRA experts, chosen per token (LLaVA-MoLE, MoLA, LoRAMoE, MeteoRA: papers below).

    ``h = W0 x + sum_{e in S} w_e (alpha / rank) B_e A_e x`` with experts chosen by a learned router.

    ``p = softmax(router(x) / temperature)``; S = the ``top_k`` most probable (0: all). ``w_e = p_e``, so that the
    task's loss teaches the router, or ``p_e / sum_S p`` with ``renormalise``.

    - LLaVA-MoLE (Chen et al. 2024, arXiv:2401.16160): one router per block reads the MLP's input and decides for all of
      its layers; top-1; plain LoRA on the attention; balance per conversation. Their code leaves p_e out; we do not.
    - MoLA (Gao et al. 2024, arXiv:2402.08562): a router per layer, top-2 renormalised, ``balance: mola``.
    - MeteoRA (Xu et al. 2024, arXiv:2405.13053): a router per layer, top-2 renormalised, taught the task of the data.
    - LoRAMoE (Dou et al. 2023, arXiv:2312.09979): a router per layer, all experts by their probability, ``balance:
      localized``; in UnifiedMLLM (2408.02503) without a balance.
    """

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    has_metrics = True

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
        balance: Literal["llava_mole", "switch", "mola", "localized"] = "llava_mole",
        balance_weight: float = 0.0,
        balance_shift: float = 0.1,
        halves: dict[str, int] | None = None,
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
            balance_shift: how far ``localized`` parts the two halves of the experts, 0 (not) to 1.
            halves: data key -> half of the experts that ``localized`` gives it, 0 or 1; all data keys of the stage.
            supervised: data key -> expert its tokens should choose (-1: none); all data keys of the stage.
            supervision_weight: of the cross entropy that teaches it.
            attention: rank of plain LoRA on the attention's layers, scaled as the experts; 0: none.
        """
        super().__init__(llm_dim=llm_dim)
        check_sizes(rank, alpha, dropout, temperature, attention)
        check_losses(top_k, renormalise, supervised, supervision_weight)
        check_balance(balance, balance_weight, top_k, balance_shift, halves)
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets = [targets] if isinstance(targets, str) and targets not in GROUPS else targets
        self.per_router = router
        self.n_experts, self.experts_mean, self.router_bias = experts, experts_mean, router_bias
        self.top_k, self.renormalise, self.temperature = top_k, renormalise, temperature
        self.balance, self.balance_weight, self.balance_shift = balance, balance_weight, balance_shift
        self.halves = dict(halves or {})
        self.supervised, self.supervision_weight = dict(supervised or {}), supervision_weight
        self.attention_rank = attention
        self.routers, self.experts, self.attention = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.goals: Goals | None = None
        # balance and supervision are means over tokens, and those of a shared beginning would count once
        self.shares_prefix = not balance_weight and not supervision_weight
        self._busy = self._learning = True

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the weights for each block's layers and put their updates behind them.

        Raises:
            MmllmError: numbers of experts, targets and the other settings do not go together.
        """
        counts = experts_per_block(self.n_experts, self.experts_mean, llm.n_blocks)
        if not 0 <= self.top_k <= min(counts):
            raise MmllmError(f"moe_lora: top_k {self.top_k} must be 0 (all) to {min(counts)}, the fewest of {counts}.")
        self.goals = self._goals(counts)
        handles: list[Handle] = []
        for block, count in enumerate(counts):
            linears = llm.block_linears(block)
            if self.per_router == "block":
                # the first of its layers reads what the MLP reads; hooked before theirs, so that it has decided by then
                first = next(iter(linears["mlp"].values()))
                router = self._router(str(block), in_out_features(first)[0], count)
                handles.append(llm.before_mlp(block, self._reading(router, block)))
            for name, base in with_experts(llm, linears, self.targets, self.per_router, self.attention_rank).items():
                key = module_key(name)
                widths = in_out_features(base)
                router = str(block) if self.per_router == "block" else self._router(key, widths[0], count)
                if key not in self.experts:
                    self.experts[key] = Experts(*widths, count, self.rank, self.alpha, self.dropout)
                handles.append(llm.after_linear(name, self._adding(key, router, block)))
            for name, base in linears["attention"].items() if self.attention_rank else ():
                if module_key(name) not in self.attention:
                    self.attention[module_key(name)] = LowRank(base, self._plain(base))
                handles.append(llm.after_linear(name, adding(self, self.attention[module_key(name)])))
        return Handle.of(handles)

    def _goals(self, counts: list[int]) -> Goals:
        return Goals(
            per_block=counts,
            balance=self.balance,
            weight=self.balance_weight,
            top_k=self.top_k,
            shift=self.balance_shift,
            halves=self.halves,
            supervised=self.supervised,
            supervision=self.supervision_weight,
        )

    def _router(self, key: str, dim: int, count: int) -> str:
        """Make sure that a router is there; one expert needs none."""
        if count > 1 and key not in self.routers:
            self.routers[key] = Router(dim, count, self.router_bias)
        return key

    def _plain(self, base: nn.Module) -> LoraConfig:
        """The attention's LoRA: as strong as one expert, alpha / rank, whatever its own rank."""
        return LoraConfig(
            r=self.attention_rank,
            lora_alpha=self.alpha * self.attention_rank / self.rank,
            lora_dropout=self.dropout,
            fan_in_fan_out=isinstance(base, Conv1D),
        )

    # ---- in the LLM

    def _route(self, ctx: ForwardContext, router: str, block: int, x: Tensor) -> Routing:
        rows = x.flatten(0, -2)
        if router in self.routers:
            logits = self.routers[router](rows)
        else:
            logits = rows.new_zeros(len(rows), 1).float()
        routing = Routing.of(logits, self.top_k, self.renormalise, self.temperature)
        ctx.once((self, "stats"), lambda: self._stats(ctx)).add(router, block, logits, routing)
        return routing

    def _stats(self, ctx: ForwardContext) -> RouterStats:
        assert self.goals is not None  # attached
        return RouterStats(self.goals, ctx, self.active(ctx), self.training and self._learning)

    def _reading(self, router: str, block: int) -> Change:
        """The hook before a block's MLP: decides for all of its layers."""

        def change(ctx: ForwardContext, x: Tensor) -> Tensor:
            if self._busy:
                # anew in a recomputation, not once a pass: gradients must flow through the tensors made in it
                ctx.notes[self, "routing", router] = self._route(ctx, router, block, x)
            return x

        return change

    def _adding(self, key: str, router: str, block: int) -> ChangeOutput:
        """The hook behind a layer: output + the experts' update."""
        experts: Any = self.experts[key]
        decided = self.per_router == "block"

        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            if experts.idle:
                return output
            routing = ctx.notes[self, "routing", router] if decided else self._route(ctx, router, block, x)
            sent = (routing.weights, routing.chosen, routing.order, routing.inverse, routing.ends)
            delta = experts(x.flatten(0, -2), *sent)
            return self.select(ctx, output + delta.view(output.shape), output)

        return change

    # ---- around a pass

    def skip_if_zero(self) -> None:
        """Find out which updates may be skipped and whether the routers learn; called when that may have changed."""
        for layer in (*self.experts.values(), *self.attention.values()):
            assert isinstance(layer, Experts | LowRank)
            layer.skip_if_zero()
        # routers need not decide where nobody asks them: before the experts' stage a pass costs what the bare LLM costs
        self._busy = any(not layer.idle for layer in self.experts.values())
        self._learning = any(parameter.requires_grad for parameter in self.routers.parameters())

    def extra_loss(self, ctx: ForwardContext) -> Tensor | None:
        """Balance and supervision of the pass; None while the routers are frozen."""
        stats: RouterStats | None = ctx.notes.get((self, "stats"))
        return stats.loss() if stats is not None and self._learning else None

    def metrics(self, ctx: ForwardContext) -> dict[str, Any] | None:
        """Expert usage of the pass, see ``RouterStats.metrics``; None while the experts are skipped."""
        stats: RouterStats | None = ctx.notes.get((self, "stats"))
        return None if stats is None else stats.metrics()

    def summary(self, total: Mapping[str, Any]) -> dict[str, Any]:
        """Shares of the experts, see ``moe_lora.usage.shortened``."""
        return usage.shortened(total)

    def headline(self, summary: Mapping[str, Any]) -> str:
        """The range of shares, and how often routers decided as taught."""
        return usage.line(summary)
