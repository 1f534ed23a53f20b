"""Statistics of ``moe_lora``'s routers in one pass: the losses that balance or teach them, and expert usage to show."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.connectors.llm_adapters.moe_lora.goals import Goals
from mmllm.connectors.llm_adapters.moe_lora.routing import Routing
from mmllm.hooks import ForwardContext

TEXT = "text"
"""Modality of positions that no encoder's tokens fill."""


class RouterStats:
    """Counts of one pass. A recomputation of it in the backward pass changes nothing.

    With J experts, f_j the fraction of tokens sent to expert j (sums to k) and P_j its mean probability, over tokens
    that are real and where the connector works:

    - ``llava_mole``: per conversation, pooled over all routers, ``sum_j f_j P_j``; then the mean over conversations
    - ``switch``: per block, pooled over its routers and the batch, ``J sum_j f_j P_j``; then the sum over blocks
    - ``mola``: that over k, as MoLA's code has it, where f sums to 1
    - ``localized`` (LoRAMoE): per router, q_ij the mean probability of expert j in conversation i, z_ij = ``q_ij (1 +
      shift)`` for experts of the half that its data has, else ``q_ij (1 - shift)``; the variance of all z over the
      square of their mean; then the sum over routers. Its code has sums over rows of one padded length: the same
    - supervision: mean over routers and tokens of the cross entropy of the logits with the token's data key's expert
    """

    @torch.no_grad()
    def __init__(self, goals: Goals, ctx: ForwardContext, active: Tensor | None, training: bool) -> None:
        """Read the pass; ``active``: bool[R, S, 1], where the connector works (None: everywhere).

        ``training``: whether routers learn.

        Raises:
            MmllmError: routers learn from data that ``supervised`` does not name.
        """
        self.goals = goals
        self.datasets = ctx.dataset_names
        self.modalities = (TEXT, *ctx.media_positions)
        self._counts: dict[str, tuple[int, Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._taught: dict[str, Tensor] = {}
        self._gates: Tensor | None = None
        modality = ctx.sequence_ids.new_zeros(ctx.sequence_ids.numel())
        for number, positions in enumerate(ctx.media_positions.values(), start=1):
            modality[positions] = number
        counted = ctx.attention_mask if active is None else ctx.attention_mask & active[..., 0]
        groups = ctx.sequence_ids.flatten() * len(self.modalities) + modality
        # what is not counted goes to a group after the last
        self._groups = torch.where(counted.flatten(), groups, self.n_groups)
        self._labels = groups.new_empty(0)
        if goals.supervised:
            experts = groups.new_tensor([goals.expert_of(dataset, training) for dataset in self.datasets])
            self._labels = torch.where(counted, experts[ctx.sequence_ids], -1).flatten()

        if goals.weight and goals.balance == "localized":
            self._halves = groups.new_tensor([goals.half_of(dataset, training) for dataset in self.datasets])

    @property
    def n_groups(self) -> int:
        """Number of pairs of conversation and modality."""
        return len(self.datasets) * len(self.modalities)

    def add(self, router: str, block: int, logits: Tensor, routing: Routing) -> None:
        """Count what one router decided, for all T positions of the pass: logits float[T, E]."""
        again = router in self._counts  # its block is recomputed in the backward pass
        n_groups = self.n_groups
        with torch.no_grad():
            sent = routing.probabilities.detach()
            if routing.chosen is not None:
                sent = torch.zeros_like(sent).scatter_(1, routing.chosen, 1.0)
            counts = sent.new_zeros(n_groups + 1, sent.shape[1]).index_add_(0, self._groups, sent)[:n_groups]
        # these must be computed again in a recomputation, or it would save other tensors than the first time
        if self.goals.weight and torch.is_grad_enabled():
            empty = sent.new_zeros(n_groups + 1, sent.shape[1])
            self._sums.setdefault(router, empty.index_add(0, self._groups, routing.probabilities)[:n_groups])
        if self.goals.supervised:
            taught = F.cross_entropy(logits, self._labels, ignore_index=-1, reduction="sum")
            self._taught.setdefault(router, taught)
            if not again:
                self._count_gates(logits.detach())
        if not again:
            self._counts[router] = (block, counts)

    @torch.no_grad()
    def _count_gates(self, logits: Tensor) -> None:
        right = (logits.argmax(dim=-1) == self._labels).sum()
        counted = torch.stack([right, (self._labels >= 0).sum()])
        self._gates = counted if self._gates is None else self._gates + counted

    def loss(self) -> Tensor | None:
        """Weighted balance and supervision of the pass; None where neither is wanted or nothing was routed."""
        losses = []
        if self.goals.weight and self._sums:
            losses.append(self.goals.weight * self._balance())
        if self.goals.supervision and self._taught:
            n_labels = (self._labels >= 0).sum().clamp(min=1)
            losses.append(self.goals.supervision * torch.stack(list(self._taught.values())).mean() / n_labels)
        return torch.stack(losses).sum() if losses else None

    def _balance(self) -> Tensor:
        """Balance of the pass, without its weight."""
        if self.goals.balance == "llava_mole":
            return self._per_row()
        if self.goals.balance == "localized":
            return self._localized()
        switch = self._switch()
        return switch / self.goals.top_k if self.goals.balance == "mola" else switch

    def _localized(self) -> Tensor:
        """Balance ``localized``."""
        size = len(self.modalities)
        losses = []
        for sums in self._sums.values():
            rows = sums.unflatten(0, (-1, size)).sum(dim=1)
            n_tokens = rows.detach().sum(dim=-1, keepdim=True)
            there = n_tokens > 0.5  # probabilities sum to 1
            half = torch.arange(rows.shape[1], device=rows.device) // (rows.shape[1] // 2)
            shift = self.goals.shift * torch.where(half == self._halves[:, None], 1.0, -1.0)
            z = rows / n_tokens.clamp(min=1) * (1 + shift)
            count = there.sum() * rows.shape[1]
            mean = (z * there).sum() / count.clamp(min=1)
            spread = ((z - mean).square() * there).sum() / (count - 1).clamp(min=1)
            losses.append(spread / (mean.square() + 1e-10))
        return torch.stack(losses).sum()

    def _per_row(self) -> Tensor:
        """Balance ``llava_mole``."""
        size = len(self.modalities)
        sums, counts = (
            torch.stack(values).sum(dim=0).unflatten(0, (-1, size)).sum(dim=1)
            for values in (list(self._sums.values()), [self._counts[router][1] for router in self._sums])
        )
        # detached: the number of tokens is no wish that a router could follow
        n_tokens = sums.detach().sum(dim=-1, keepdim=True)  # probabilities sum to 1
        scale = n_tokens.clamp(min=1).square()
        # 0.5: sums of probabilities are whole numbers but for rounding
        n_rows = (n_tokens > 0.5).sum().clamp(min=1)
        return (sums * counts / scale).sum() / n_rows

    def _switch(self) -> Tensor:
        """Balance ``switch``."""
        blocks: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for router, sums in self._sums.items():
            block, counts = self._counts[router]
            blocks.setdefault(block, []).append((sums.sum(dim=0), counts.sum(dim=0)))
        losses = []
        for block, pairs in blocks.items():
            total, sent = (torch.stack(values).sum(dim=0) for values in zip(*pairs, strict=True))
            n_experts = self.goals.per_block[block]
            losses.append(n_experts * (total * sent).sum() / total.detach().sum().clamp(min=1).square())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def metrics(self) -> dict[str, Any] | None:
        """Usage as ``moe_lora.usage`` reads it, on the device of the LLM; None where nothing was routed.

        ``experts``: data key -> modality -> float64[blocks, E], or a list of float64[E] per block where blocks differ
        in their number of experts: the tokens sent to each, or where all experts work the sum of its weights. With
        supervision also ``gates``: how many routers' decisions had a label, and how many agreed with it.
        """
        if not self._counts:
            return None
        counted = self._by_block()
        names = [(dataset, modality) for dataset in self.datasets for modality in self.modalities]
        experts: dict[str, dict[str, Any]] = {}
        for dataset, modality in dict.fromkeys(names):
            rows = [row for row, name in enumerate(names) if name == (dataset, modality)]
            table: Any = counted[rows].sum(dim=0)
            if len(set(self.goals.per_block)) > 1:
                table = [row[:count] for row, count in zip(table, self.goals.per_block, strict=True)]
            experts.setdefault(dataset, {})[modality] = table
        found: dict[str, Any] = {"experts": experts}
        if self._gates is not None:
            found["gates"] = {"right": self._gates[0], "labelled": self._gates[1]}
        return found

    def _by_block(self) -> Tensor:
        """float64[groups, blocks, most experts], the tokens sent by all routers of a block."""
        width = max(self.goals.per_block)
        table = [torch.zeros(0)] * len(self.goals.per_block)
        for block, counts in self._counts.values():
            # float32 would round sums over a long evaluation, from 2^24 tokens on
            wide = F.pad(counts.double(), (0, width - counts.shape[1]))
            table[block] = wide if not table[block].numel() else table[block] + wide
        used = next(rows for rows in table if rows.numel())
        return torch.stack([rows if rows.numel() else torch.zeros_like(used) for rows in table], dim=1)
