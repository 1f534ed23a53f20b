"""One frozen LLM and the sets whose rows it answers together: LoRA in banks, trained experts in tables, others at
shared hook points."""

from __future__ import annotations

from mmllm import registry
from mmllm.connectors.base import LLMAdapter
from mmllm.connectors.llm_adapters.esft import EsftConnector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.model.reading import obstacles
from mmllm.sets.expert_tables import ExpertTables, shared_experts
from mmllm.sets.lora_banks import LoraBanks
from mmllm.sets.points import SetPoints, SharedPoints, UnmixableError


class Mixture:
    """An LLM that answers rows of several sets in one pass."""

    def __init__(self, llm: CausalLM) -> None:
        self.llm = llm
        self.banks, self.tables = LoraBanks(llm), ExpertTables(llm)
        self._points = SharedPoints(llm)
        self._of: dict[MultimodalLM, SetPoints] = {}

    def add(self, model: MultimodalLM) -> str | None:
        """Take in a model over this LLM whose connectors are detached; why its rows cannot be mixed, None where they
        are."""
        inside = {key: one for key, one in model.connectors.items() if isinstance(one, LLMAdapter)}
        experts = [one for one in inside.values() if type(one) is EsftConnector]
        loras = [one for one in inside.values() if type(one) is LoraConnector]
        why = obstacles(model)
        why += [f"connectors.{key} works inside an encoder too" for key in inside if key in model.adapts]
        # one that puts hooks elsewhere than at hook points would change everybody's rows
        others = [key for key, one in inside.items() if type(one).__module__.partition(".")[0] != registry.OWN]
        why += [f"connectors.{key} is of another package" for key in others]
        if inside and any(entry.connector.reads_text for entry in model.inputs.values()):
            why.append("its projector reads the text as the LLM embeds it")
        why += shared_experts(experts)
        if why:
            return "; ".join(why)
        points = SetPoints(self._points, model)
        try:
            if len(loras) + len(experts) == len(inside):
                for one in loras:
                    self.banks.add(model, one)
            else:  # in the order of the recipe: one may read what another changed
                for adapter in inside.values():
                    if type(adapter) is not EsftConnector:
                        adapter.attach(points)
            for expert in experts:
                self.tables.add(model, expert)
        except UnmixableError as error:
            points.clear()
            return str(error)
        self._of[model] = points
        return None

    def remove(self, model: MultimodalLM) -> None:
        """Take a model out again."""
        self.banks.remove(model)
        self.tables.remove(model)
        points = self._of.pop(model, None)
        if points is not None:
            points.clear()
