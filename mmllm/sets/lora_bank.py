"""LoRA of many sets in one batch: all sets' rank-one parts of a layer lie in one table, of which each row uses its own.

S-LoRA (Sheng et al. 2023, arXiv:2311.03285) computes base and updates apart, those of all rows at once over one pool
for every rank. Here the pool is a table of rank-one parts, A float[R, in] and B float[R, out], and which of them a row
uses is a sparse matrix [rows, R]: a sampled product gives its numbers, a sparse one adds the update. The work is that
of the parts in use, whatever ranks there are and however rows are spread. The sets' own tensors are slices of the
tables, so nothing is held twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from mmllm.connectors.layers.basics import module_key
from mmllm.connectors.llm_adapters.lora import LoraConnector, LowRank

FEW = 8
"""Most rows of a set that go into the product of all sets; more are a dense product of their own."""

Kind = tuple[tuple[str, int, int], ...]
"""Name, input and output width of each layer."""


@dataclass(frozen=True)
class Rows:
    """Rows of a pass that one connector works on."""

    connector: LoraConnector
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """How the rows of one pass meet the tables."""

    many: tuple[tuple[Rows, slice, float], ...]
    """Of sets with more than ``FEW`` rows: the rows, their parts in the tables, and their scaling."""
    start: int = 0
    end: int = 0
    """Rows of all others, and of whatever lies between them."""
    used: Tensor | None = None
    """Sparse (CSR) float[end - start, R]: which parts each of these rows uses; None: there are no others."""
    scaling: float | Tensor = 1.0
    """Of all of these parts, or float[n] of each that ``used`` names."""


class LoraBank:
    """Tables of the weights of LoRAs that work on the same layers."""

    def __init__(self, kind: Kind, like: Tensor) -> None:
        """``like``: gives dtype and device."""
        self.names = {name: module_key(name) for name, _, _ in kind}
        """Name of a layer in the LLM -> its key in a connector."""
        self.a = {name: like.new_empty(0, dim) for name, dim, _ in kind}
        """Layer -> float[R, in]."""
        self.b = {name: like.new_empty(0, out) for name, _, out in kind}
        """Layer -> float[R, out]."""
        self.members: dict[LoraConnector, slice] = {}
        """Connector -> its parts in every table."""
        self._free: list[slice] = []
        self._planned: tuple[tuple[Rows, ...], Plan] | None = None

    @staticmethod
    def kind_of(connector: LoraConnector, linears: Mapping[str, nn.Module]) -> Kind:
        """What LoRAs in one bank have in common."""
        layers = {name: low_rank(connector, module_key(name)) for name in linears}
        return tuple((name, layer.a.in_features, layer.b.out_features) for name, layer in layers.items())

    # ---- who is in it

    def add(self, connector: LoraConnector) -> None:
        """Take a connector's weights over: its tensors are slices of the tables from now on."""
        self._planned = None
        rank = connector.config.r
        place = next((one for one in self._free if one.stop - one.start == rank), None)
        if place is None:
            end = len(next(iter(self.a.values())))
            place = slice(end, end + rank)
            self._lay_out([*self.members.items(), (connector, place)], end + rank)
        else:
            self._free.remove(place)
            self._move(connector, place, self.a, self.b)
            self.members[connector] = place

    def remove(self, connector: LoraConnector) -> None:
        """Let its weights go; its own tensors are its own again."""
        for key in connector.layers:
            layer = low_rank(connector, key)
            layer.a.weight.data, layer.b.weight.data = layer.a.weight.data.clone(), layer.b.weight.data.clone()
        self._planned = None
        # the next one of this rank takes the place; a table with much that nobody uses is made anew
        self._free.append(self.members.pop(connector))
        n_free, total = sum(one.stop - one.start for one in self._free), len(next(iter(self.a.values())))
        if n_free > total // 4:
            ends = list(accumulate(one.config.r for one in self.members))
            moved = [(one, slice(end - one.config.r, end)) for one, end in zip(self.members, ends, strict=True)]
            self._free = []
            self._lay_out(moved, ends[-1] if ends else 0)

    def _lay_out(self, members: Sequence[tuple[LoraConnector, slice]], total: int) -> None:
        """Make tables of exactly these, layer by layer: no more than one layer is held twice at a time."""
        self.members = dict(members)
        for name in self.names:
            a, b = (table[name].new_empty(total, table[name].shape[1]) for table in (self.a, self.b))
            for connector, place in members:
                self._move(connector, place, {name: a}, {name: b})
            self.a[name], self.b[name] = a, b

    def _move(self, connector: LoraConnector, place: slice, a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
        """Bring a connector's weights to a place of these tables."""
        for name in a:
            layer = low_rank(connector, self.names[name])
            a[name][place], b[name][place] = layer.a.weight.data, layer.b.weight.data.t()
            layer.a.weight.data, layer.b.weight.data = a[name][place], b[name][place].t()

    # ---- a pass

    def plan(self, rows: Sequence[Rows], device: torch.device) -> Plan:
        """How these rows of a pass meet the tables."""
        asked = tuple(rows)
        if self._planned is None or self._planned[0] != asked:  # most steps are like the one before
            self._planned = asked, self._plan(rows, device)
        return self._planned[1]

    def _plan(self, rows: Sequence[Rows], device: torch.device) -> Plan:
        scalings = {one.connector: low_rank(one.connector, next(iter(self.names.values()))).scaling for one in rows}
        many = [one for one in rows if one.end - one.start > FEW]
        few = [one for one in rows if one.end - one.start <= FEW]
        dense = tuple((one, self.members[one.connector], scalings[one.connector]) for one in many)
        if not few:
            return Plan(dense)
        start, end = min(one.start for one in few), max(one.end for one in few)
        # a set may have several LoRAs, so a row the parts of several, which a sparse matrix has in order
        uses: list[list[LoraConnector]] = [[] for _ in range(start, end)]
        for one in sorted(few, key=lambda one: self.members[one.connector].start):
            for row in range(one.start, one.end):
                uses[row - start].append(one.connector)
        places = [self.members[one] for row in uses for one in row]
        parts = [part for place in places for part in range(place.start, place.stop)]
        every = [scalings[one] for row in uses for one in row for _ in range(one.config.r)]
        lengths = [sum(one.config.r for one in row) for row in uses]
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        table = next(iter(self.a.values()))
        with warnings.catch_warnings():
            # that it is beta, and that what is given is not checked: once a process
            warnings.filterwarnings("ignore", "Sparse", UserWarning)
            used = torch.sparse_csr_tensor(
                bounds,
                torch.tensor(parts, dtype=torch.int32, device=device),
                table.new_zeros(len(parts)),
                (end - start, len(table)),
            )
        alike = all(one == every[0] for one in every)
        return Plan(dense, start, end, used, every[0] if alike else table.new_tensor(every))

    def update(self, name: str, plan: Plan, x: Tensor, output: Tensor) -> None:
        """Add the updates of layer ``name`` to the planned rows of ``output`` float[S, out]; ``x`` float[S, in]."""
        a, b = self.a[name], self.b[name]
        for one, parts, factor in plan.many:
            low = x[one.start : one.end].to(a.dtype) @ a[parts].t()
            _add(output[one.start : one.end], low, b[parts], factor)
        if plan.used is None:
            return
        low = torch.sparse.sampled_addmm(plan.used, x[plan.start : plan.end].to(a.dtype), a.t(), beta=0.0)
        scaling = plan.scaling
        if isinstance(scaling, Tensor):
            low.values().mul_(scaling)
            scaling = 1.0
        _add(output[plan.start : plan.end], low, b, scaling)


def low_rank(connector: LoraConnector, key: str) -> LowRank:
    """The weights of one layer."""
    layer = connector.layers[key]
    assert isinstance(layer, LowRank)
    return layer


def _add(rows: Tensor, low: Tensor, up: Tensor, scaling: float) -> None:
    """Add ``scaling * low @ up`` to rows in place."""
    if rows.dtype == up.dtype:
        rows.addmm_(low, up, alpha=scaling)
    else:
        rows.add_(((low @ up) * scaling).to(rows.dtype))
