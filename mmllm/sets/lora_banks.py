"""All LoRA banks of one LLM, and the one hook in each of its layers that adds the updates of every set with rows."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.llms.causal_lm import CausalLM
from mmllm.sets.active_rows import active_rows
from mmllm.sets.lora_bank import Kind, LoraBank, Plan, Rows

Layers = dict[str, list[tuple[LoraBank, Plan]]]
"""Name of a layer -> the banks that have rows in it, and how."""


class LoraBanks:
    """LoRA of all sets over one LLM."""

    def __init__(self, llm: CausalLM) -> None:
        self.llm = llm
        self._banks: dict[Kind, LoraBank] = {}
        self._of: dict[Hashable, list[LoraConnector]] = {}
        self._bank_of: dict[LoraConnector, LoraBank] = {}
        self._hooks: dict[str, Handle] = {}

    def add(self, owner: Hashable, connector: LoraConnector) -> None:
        """Let a connector, detached and with its weights, work on the rows of ``owner``."""
        linears = self.llm.linears(connector.targets)
        kind = LoraBank.kind_of(connector, linears)
        if kind not in self._banks:
            self._banks[kind] = LoraBank(kind, next(connector.parameters()).data)
        self._banks[kind].add(connector)
        self._bank_of[connector] = self._banks[kind]
        self._of.setdefault(owner, []).append(connector)
        for name in linears:
            if name not in self._hooks:
                self._hooks[name] = self.llm.after_linear(name, self._adding(name))

    def remove(self, owner: Hashable) -> None:
        """Take out all connectors of ``owner``."""
        for connector in self._of.pop(owner, ()):
            self._bank_of.pop(connector).remove(connector)
        self._banks = {kind: bank for kind, bank in self._banks.items() if bank.members}
        needed = {name for bank in self._banks.values() for name in bank.names}
        for name in self._hooks.keys() - needed:
            self._hooks.pop(name).remove()

    # ---- a pass

    def _adding(self, name: str) -> ChangeOutput:
        """The hook behind a layer."""

        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            if ctx.stretches is None:
                return output
            planned = ctx.once((self, "rows"), lambda: self._planned(ctx)).get(name)
            if planned:
                flat_x, flat = x.flatten(0, -2), output.flatten(0, -2)
                for bank, plan in planned:
                    bank.update(name, plan, flat_x, flat)
                output = flat.view(output.shape)
            return output

        return change

    def _planned(self, ctx: ForwardContext) -> Layers:
        """Rows of each bank in this pass; conversations in which a connector is not active have none."""
        rows: dict[LoraBank, list[Rows]] = {}
        for connector, start, end in active_rows(ctx, self._of):
            own = rows.setdefault(self._bank_of[connector], [])
            if own and own[-1].connector is connector and own[-1].end == start:
                start = own.pop().start
            own.append(Rows(connector, start, end))
        found: Layers = {}
        for bank, some in rows.items():
            if some:
                plan = bank.plan(some, ctx.input_ids.device)
                for name in bank.names:
                    found.setdefault(name, []).append((bank, plan))
        return found
