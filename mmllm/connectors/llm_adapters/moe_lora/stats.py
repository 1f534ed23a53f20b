"""What the routers of ``moe_lora`` did in a pass: the losses that balance or teach them, and expert usage to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.connectors.llm_adapters.moe_lora.routing import Routing
from mmllm.errors import MmllmError
from mmllm.types import Pass

TEXT = "text"
"""Modality of positions that no encoder's tokens fill."""


class RouterStats:
    """Counts of one pass after the other. A recomputation in the backward pass changes nothing.

    With J experts, f_j the fraction of tokens sent to expert j (sums to k) and P_j its mean probability, over tokens
    that are real and where the connector works:

    - ``llava_mole``: per conversation, pooled over all routers, ``sum_j f_j P_j``; then the mean over conversations
    - ``switch``: per block, pooled over its routers and the batch, ``J sum_j f_j P_j``; then the sum over blocks
    - supervision: mean over routers and tokens of the cross entropy of the logits with the expert of the token's source
    """

    def __init__(
        self, per_block: Sequence[int], balance: str, weight: float, supervised: Mapping[str, int], supervision: float
    ) -> None:
        """``per_block``: experts of each block; ``supervised``: data key -> expert (-1: none)."""
        self.per_block = list(per_block)
        self.balance, self.weight = balance, weight
        self.supervised, self.supervision = dict(supervised), supervision
        self._flow: Pass | None = None
        self._groups = self._labels = torch.empty(0, dtype=torch.int64)
        self._modalities: tuple[str, ...] = ()
        self._seen: set[str] = set()
        self._counts: dict[str, tuple[int, Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._taught: dict[str, Tensor] = {}
        self._usage: dict[tuple[str, str], Tensor] = {}
        self._gates: Tensor | None = None

    @torch.no_grad()
    def begin(self, flow: Pass, active: Tensor | None, training: bool) -> None:
        """A new pass over these conversations; ``active`` as the connector's."""
        self._fold()
        self._seen.clear()
        self._flow = flow
        self._modalities = (TEXT, *flow.places)
        modality = flow.sequence_ids.new_zeros(flow.sequence_ids.numel())
        for number, places in enumerate(flow.places.values(), start=1):
            modality[places] = number
        counted = flow.real if active is None else flow.real & active[..., 0]
        groups = flow.sequence_ids.flatten() * len(self._modalities) + modality
        # what is not counted goes to a group after the last
        self._groups = torch.where(counted.flatten(), groups, len(flow.sources) * len(self._modalities))
        if self.supervised:
            experts = flow.sequence_ids.new_tensor([self._expert(source, training) for source in flow.sources])
            self._labels = torch.where(counted, experts[flow.sequence_ids], -1).flatten()

    def _expert(self, source: str, training: bool) -> int:
        if source not in self.supervised and source and training:
            known = ", ".join(self.supervised)
            raise MmllmError(
                f"moe_lora: supervised names no expert for the data {source!r}; it has {known} (-1 means none)."
            )
        return self.supervised.get(source, -1)

    def add(self, router: str, block: int, logits: Tensor, routing: Routing) -> None:
        """What one router decided, for all T positions of the pass: logits float[T, E]."""
        if self._flow is None:
            return
        again = router in self._seen
        self._seen.add(router)
        n_groups = len(self._flow.sources) * len(self._modalities)
        with torch.no_grad():
            sent = routing.probabilities.detach()
            if routing.chosen is not None:
                sent = torch.zeros_like(sent).scatter_(1, routing.chosen, 1.0)
            counts = sent.new_zeros(n_groups + 1, sent.shape[1]).index_add_(0, self._groups, sent)[:n_groups]
        # these must be computed again in a recomputation, or it would save other tensors than the first time
        if self.weight and torch.is_grad_enabled():
            empty = sent.new_zeros(n_groups + 1, sent.shape[1])
            self._sums.setdefault(router, empty.index_add(0, self._groups, routing.probabilities)[:n_groups])
        if self.supervised:
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
        if self.weight and self._sums:
            losses.append(self.weight * (self._switch() if self.balance == "switch" else self._llava_mole()))
        if self.supervision and self._taught:
            n_labels = (self._labels >= 0).sum().clamp(min=1)
            losses.append(self.supervision * torch.stack(list(self._taught.values())).mean() / n_labels)
        return torch.stack(losses).sum() if losses else None

    def _llava_mole(self) -> Tensor:
        size = len(self._modalities)
        sums, counts = (
            torch.stack(values).sum(dim=0).unflatten(0, (-1, size)).sum(dim=1)
            for values in (list(self._sums.values()), [self._counts[router][1] for router in self._sums])
        )
        n_tokens = sums.detach().sum(dim=-1, keepdim=True)  # probabilities sum to 1
        scale = n_tokens.clamp(min=1).square()
        n_rows = (n_tokens > 0.5).sum().clamp(min=1)
        return (sums * counts / scale).sum() / n_rows

    def _switch(self) -> Tensor:
        blocks: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for router, sums in self._sums.items():
            block, counts = self._counts[router]
            blocks.setdefault(block, []).append((sums.sum(dim=0), counts.sum(dim=0)))
        losses = []
        for block, pairs in blocks.items():
            total, sent = (torch.stack(values).sum(dim=0) for values in zip(*pairs, strict=True))
            losses.append(self.per_block[block] * (total * sent).sum() / total.detach().sum().clamp(min=1).square())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _fold(self) -> None:
        """Add the counts of the last pass to the usage, by source and modality."""
        if self._flow is not None and self._counts:
            width = max(self.per_block)
            table: list[Tensor] = [torch.zeros(0)] * len(self.per_block)
            for block, counts in self._counts.values():
                wide = F.pad(counts.double(), (0, width - counts.shape[1]))
                table[block] = wide if not table[block].numel() else table[block] + wide
            used = next(rows for rows in table if rows.numel())
            counted = torch.stack([rows if rows.numel() else torch.zeros_like(used) for rows in table], dim=1)
            names = [(source, modality) for source in self._flow.sources for modality in self._modalities]
            for name in dict.fromkeys(names):
                rows = [row for row, other in enumerate(names) if other == name]
                more = counted[rows].sum(dim=0)
                self._usage[name] = self._usage[name] + more if name in self._usage else more
        for record in (self._counts, self._sums, self._taught):
            record.clear()

    def report(self) -> dict[str, Any] | None:
        """Usage since the last call: ``experts`` source -> modality -> block -> tokens of each expert.

        Where all experts work, an expert's tokens are the sum of its weights. With supervision also ``gates``: how many
        routers' decisions had a label, and how many agreed with it. All numbers may be summed over ranks.
        """
        self._fold()
        experts: dict[str, dict[str, list[list[float]]]] = {}
        for (source, modality), table in self._usage.items():
            if table.any():
                rows = zip(table.tolist(), self.per_block, strict=True)
                experts.setdefault(source, {})[modality] = [row[:count] for row, count in rows]
        found: dict[str, Any] = {"experts": experts} if experts else {}
        if self._gates is not None:
            right, labelled = self._gates.tolist()
            found["gates"] = {"right": right, "labelled": labelled}
        self._usage, self._gates = {}, None
        return found or None
