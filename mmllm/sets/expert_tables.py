"""Trained experts of many sets over one LLM: a block's experts and all stand-ins lie in one table, found by an index.

ExpertWeave (2025, arXiv:2508.17624): a row's choices are looked up in the index of its set, which leads to the set's
own expert where it has one and to the LLM's own where not; one product over the table then serves all rows. Memory is
the LLM's experts and those that were trained, no more: the LLM's own tensors and the sets' are slices of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import accumulate

import torch
from torch import Tensor

from mmllm.connectors.llm_adapters.esft import EsftConnector
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.experts import expert_tensors, n_experts, run_experts
from mmllm.llms.causal_lm import CausalLM
from mmllm.sets.active_rows import active_rows

Spans = list[tuple[EsftConnector, int, int]]


class ExpertTables:
    """The experts of one LLM with the stand-ins of all sets."""

    def __init__(self, llm: CausalLM) -> None:
        self.llm = llm
        self._of: dict[Hashable, list[EsftConnector]] = {}
        self._tables: dict[int, _Table] = {}

    def add(self, owner: Hashable, connector: EsftConnector) -> None:
        """Let a connector, detached and with its weights, answer in the rows of ``owner``."""
        for key in connector.layers:
            block = int(key)
            if block not in self._tables:
                self._tables[block] = _Table(self, block)
            self._tables[block].lay_out([*self._tables[block].members, connector])
        self._of.setdefault(owner, []).append(connector)

    def remove(self, owner: Hashable) -> None:
        """Take out all connectors of ``owner``; their tensors are their own again."""
        for connector in self._of.pop(owner, ()):
            for key in connector.layers:
                table = self._tables[int(key)]
                layer = connector.layer(int(key))
                for tensor in layer.tensors().values():
                    tensor.data = tensor.data.clone()
                table.lay_out([one for one in table.members if one is not connector])
                if not table.members:
                    self._tables.pop(int(key)).handle.remove()

    def spans(self, ctx: ForwardContext) -> Spans:
        """Rows of each connector in this pass."""
        return ctx.once((self, "rows"), lambda: list(active_rows(ctx, self._of)))


class _Table:
    """The experts of one block."""

    def __init__(self, tables: ExpertTables, block: int) -> None:
        experts = tables.llm.experts(block)
        assert experts is not None
        self._all, self._block, self._experts = tables, block, experts
        self._n = n_experts(experts)
        self._tensors: dict[str, Tensor] = {name: one.data for name, one in expert_tensors(experts).items()}
        """Name -> [M + all stand-ins, ...]."""
        self.members: dict[EsftConnector, Tensor] = {}
        """Connector -> its index, int64[M]: expert of the LLM -> expert of the table."""
        self.handle: Handle = tables.llm.around_experts(block, self._run)

    def lay_out(self, members: list[EsftConnector]) -> None:
        """Make the table of exactly these, tensor by tensor: no more than one is held twice at a time."""
        layers = [member.layer(self._block) for member in members]
        ends = list(accumulate((len(layer.ids) for layer in layers), initial=self._n))
        for name, own in expert_tensors(self._experts).items():
            table = own.new_empty(ends[-1], *own.shape[1:])
            table[: self._n] = own.data
            own.data = table[: self._n]
            for layer, start, end in zip(layers, ends[:-1], ends[1:], strict=True):
                tensor = layer.tensors()[name]
                # in the LLM's data type, which is that of the product
                table[start:end] = tensor.data
                tensor.data = table[start:end]
            self._tensors[name] = table
        self.members = {}
        for member, layer, start in zip(members, layers, ends[:-1], strict=True):
            plain = torch.arange(self._n, device=layer.slots.device)
            self.members[member] = torch.where(layer.slots >= 0, layer.slots + start, plain)

    def _run(
        self, ctx: ForwardContext, plain: Callable[..., Tensor], hidden: Tensor, ids: Tensor, weights: Tensor
    ) -> Tensor:
        """The hook: every row's choices led to its set's experts, then one product."""
        spans = [(self.members[one], start, end) for one, start, end in self._all.spans(ctx) if one in self.members]
        if not spans:
            return plain(hidden, ids, weights)
        led = ids.clone()
        for index, start, end in spans:
            # of two connectors of a set each leads its own experts; those of the other stay where they were led
            moved = index[ids[start:end]]
            led[start:end] = torch.where(moved == ids[start:end], led[start:end], moved)
        return run_experts(self._experts, self._tensors, hidden, led, weights)


def shared_experts(connectors: list[EsftConnector]) -> list[str]:
    """Why these connectors of one set cannot share a table: two train the same expert, and their changes would have to
    be told apart."""
    seen: dict[tuple[str, int], str] = {}
    found = []
    for connector in connectors:
        for key in connector.layers:
            for expert in connector.layer(int(key)).ids:
                first = seen.setdefault((key, expert), connector.key)
                if first != connector.key:
                    found.append(f"connectors.{first} and {connector.key} both train expert {expert} of block {key}")
    return found
