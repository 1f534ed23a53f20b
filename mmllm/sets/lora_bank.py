"""LoRA of many sets in one batch: the weights of sets with one rank and the same layers lie in one stack per layer.

S-LoRA (Sheng et al. 2023, arXiv:2311.03285) computes base and updates apart, the updates of all rows at once. Here the
rows of each set meet their own slice of the stack in one batched product. The sets' own tensors are these slices, so
nothing is held twice; those with rows in the pass are kept at the stack's front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmllm.connectors.layers.basics import module_key
from mmllm.connectors.llm_adapters.lora import LoraConnector, LowRank

FEW = 8
"""Most rows of a set that go into the product of all sets: it is as wide as the widest of them. More are a product of
their own."""
GAPS = 1.5
"""How many slices more than sets with rows the product may take, as a factor, before sets change places."""

Kind = tuple[int, tuple[tuple[str, int, int], ...]]
"""Rank, and name, input and output width of each layer."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a pass are of one set."""

    slot: int
    """Of the set in the bank."""
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """How the rows of one pass meet the stack."""

    many: tuple[Rows, ...]
    """Sets with more than ``FEW`` rows."""
    slots: int = 0
    """Slices of the product of all others; 0: there is none."""
    start: int = 0
    end: int = 0
    """Its rows, one set's after the other's."""
    gather: Tensor | None = None
    """int64[slots * width], rows by slice, any where a set has fewer; None: each slice has ``width`` rows in order."""
    scatter: Tensor | None = None
    """int64[end - start], where in the gathered rows each row is."""


class LoraBank:
    """Stacks of the weights of the LoRAs of one kind."""

    def __init__(self, kind: Kind, like: Tensor) -> None:
        """``like``: gives dtype and device."""
        self.rank, layers = kind
        self.names = {name: module_key(name) for name, _, _ in layers}
        """Name of a layer in the LLM -> its key in a connector."""
        self.members: list[LoraConnector] = []
        """By slot."""
        self.a = {name: like.new_empty(0, self.rank, dim) for name, dim, _ in layers}
        """Layer -> float[slots, r, in]."""
        self.b = {name: like.new_empty(0, out, self.rank) for name, _, out in layers}
        """Layer -> float[slots, out, r]."""
        self._scalings: list[float] = []

    @staticmethod
    def kind_of(connector: LoraConnector, linears: Mapping[str, nn.Module]) -> Kind:
        """What LoRAs in one bank have in common."""
        found = []
        for name in linears:
            layer = low_rank(connector, module_key(name))
            found.append((name, layer.a.in_features, layer.b.out_features))
        return connector.config.r, tuple(found)

    # ---- who is in it

    def add(self, connector: LoraConnector) -> None:
        """Take a connector's weights over: its tensors are slices of the stacks from now on."""
        self._stack([*self.members, connector])

    def remove(self, connector: LoraConnector) -> None:
        """Let its weights go; its own tensors are its own again."""
        for key in connector.layers:
            layer = low_rank(connector, key)
            for part in (layer.a, layer.b):
                part.weight.data = part.weight.data.clone()
        self._stack([one for one in self.members if one is not connector])

    def _stack(self, members: list[LoraConnector]) -> None:
        """Make stacks of exactly these, layer by layer: no more than one layer is held twice at a time."""
        self.members = members
        self._scalings = [low_rank(one, next(iter(one.layers))).scaling for one in members]
        for name, key in self.names.items():
            layers = [low_rank(one, key) for one in members]
            for stacks, weights in (
                (self.a, [layer.a.weight for layer in layers]),
                (self.b, [layer.b.weight for layer in layers]),
            ):
                stack = stacks[name].new_empty(len(weights), *stacks[name].shape[1:])
                for slot, weight in enumerate(weights):
                    stack[slot] = weight.data
                    weight.data = stack[slot]
                stacks[name] = stack

    def _swap(self, one: int, other: int) -> None:
        """Let two members change places."""
        for stack in (*self.a.values(), *self.b.values()):
            held = stack[one].clone()
            stack[one], stack[other] = stack[other], held
        members, scalings = self.members, self._scalings
        members[one], members[other] = members[other], members[one]
        scalings[one], scalings[other] = scalings[other], scalings[one]
        for slot in (one, other):
            for name, key in self.names.items():
                layer = low_rank(self.members[slot], key)
                layer.a.weight.data, layer.b.weight.data = self.a[name][slot], self.b[name][slot]

    def bring_forward(self, running: set[LoraConnector]) -> None:
        """Bring these to the stack's front where too many others stand among them."""
        places = [slot for slot, one in enumerate(self.members) if one in running]
        if not places or places[-1] + 1 <= GAPS * len(places):
            return
        behind = [slot for slot in places if slot >= len(places)]
        free = [slot for slot in range(len(places)) if self.members[slot] not in running]
        for one, other in zip(free, behind, strict=True):
            self._swap(one, other)

    # ---- a pass

    def plan(self, counts: list[tuple[int, int, int]], device: torch.device) -> Plan:
        """How rows meet the stack; ``counts``: slot, first row and number of rows of each set, in the row's order."""
        many = [Rows(slot, start, start + n) for slot, start, n in counts if n > FEW]
        few = [one for one in counts if one[2] <= FEW]
        # the product takes rows that stand in the order of the stack, one behind the other
        ordered = all(a[0] < b[0] and a[1] + a[2] == b[1] for a, b in pairwise(few))
        if len(few) < 2 or not ordered:
            return Plan(tuple(many + [Rows(slot, start, start + n) for slot, start, n in few]))
        slots, width = few[-1][0] + 1, max(n for _, _, n in few)
        start, end = few[0][1], few[-1][1] + few[-1][2]
        if len(few) == slots and all(n == width for _, _, n in few):
            return Plan(tuple(many), slots, start, end)
        gather = [start] * (slots * width)
        scatter: list[int] = []
        for slot, first, n in few:
            places = range(slot * width, slot * width + n)
            gather[slot * width : slot * width + n] = range(first, first + n)
            scatter += places
        return Plan(
            tuple(many), slots, start, end, torch.tensor(gather, device=device), torch.tensor(scatter, device=device)
        )

    def update(self, name: str, plan: Plan, x: Tensor, output: Tensor) -> None:
        """Add the updates of layer ``name`` to the planned rows of ``output`` float[S, out]; ``x`` float[S, in]."""
        a, b = self.a[name], self.b[name]
        for one in plan.many:
            low = x[one.start : one.end].to(a.dtype) @ a[one.slot].t()
            _add(output[one.start : one.end], low, b[one.slot].t(), self._scalings[one.slot])
        if not plan.slots:
            return
        rows = output[plan.start : plan.end]
        chosen = x[plan.start : plan.end] if plan.gather is None else x.index_select(0, plan.gather)
        low = torch.bmm(chosen.to(a.dtype).view(plan.slots, -1, x.shape[-1]), a[: plan.slots].transpose(1, 2))
        scalings = self._scalings[: plan.slots]
        scaling = scalings[0]
        if any(one != scaling for one in scalings):
            low, scaling = low * low.new_tensor(scalings).view(-1, 1, 1), 1.0
        up = b[: plan.slots].transpose(1, 2)
        if plan.scatter is None and rows.dtype == a.dtype:
            rows.view(plan.slots, -1, rows.shape[-1]).baddbmm_(low, up, alpha=scaling)
            return
        made = torch.bmm(low, up).flatten(0, 1)
        made = made if plan.scatter is None else made.index_select(0, plan.scatter)
        if rows.dtype == a.dtype:
            rows.add_(made, alpha=scaling)
        else:
            rows.add_((made * scaling).to(rows.dtype))


def _add(rows: Tensor, low: Tensor, up: Tensor, scaling: float) -> None:
    """Add ``scaling * low @ up`` to rows in place."""
    if rows.dtype == low.dtype:
        rows.addmm_(low, up, alpha=scaling)
    else:
        rows.add_(((low @ up) * scaling).to(rows.dtype))


def low_rank(connector: LoraConnector, key: str) -> LowRank:
    """The weights of one layer."""
    layer = connector.layers[key]
    assert isinstance(layer, LowRank)
    return layer
