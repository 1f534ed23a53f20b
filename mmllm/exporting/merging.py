"""The LLM of a run with its LoRA put into its weights; what cannot be put there is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.base import Connector, EncoderAdapter, LLMAdapter
from mmllm.connectors.llm_adapters.lora import LoraConnector, LowRank
from mmllm.connectors.llm_adapters.peft.layers import NAME, TunerLora
from mmllm.connectors.llm_adapters.peft.peft import PeftConnector
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM

MERGED = "lora, and peft with method lora"


def inside(model: MultimodalLM) -> dict[str, Connector]:
    """Key -> connector that works inside the LLM or an encoder."""
    kinds = (LLMAdapter, EncoderAdapter)
    return {key: one for key, one in model.connectors.items() if isinstance(one, kinds)}


def loras(model: MultimodalLM, form: str, projectors: Collection[str] = ()) -> dict[str, Connector]:
    """Key -> LoRA of the LLM; ``projectors``: keys of connectors that the form has a place for.

    Raises:
        MmllmError: another connector works inside a frozen part, or one only ``when`` there are media.
    """
    found = {key: one for key, one in inside(model).items() if key not in projectors}
    for key, one in found.items():
        plain = isinstance(one, LoraConnector) or (isinstance(one, PeftConnector) and one.method == "lora")
        if not plain:
            raise MmllmError(
                f"--to {form}: connectors.{key} ({type(one).__name__}) works inside a frozen part, and the weights of "
                f"a model without it cannot hold what it does; only {MERGED} can be put into them"
            )
        if one.when is not None:
            raise MmllmError(
                f"--to {form}: connectors.{key} works only in conversations with {', '.join(one.when)} (`when`), and "
                "weights that it is put into would change all of them; train it without `when`, or keep the run"
            )
    return found


def updates(connector: Connector) -> Iterator[tuple[str, Tensor]]:
    """Name of a linear layer in the LLM, and what a LoRA adds to its weight, float32[out, in]; one after the other.

    Each is as large as the layer: kept all, they would be a second model.
    """
    for key, layer in connector.layers.items():  # type: ignore[union-attr, operator]
        if isinstance(layer, LowRank):
            a, b, scaling = layer.a.weight, layer.b.weight, layer.scaling
        else:
            assert isinstance(layer, TunerLora)
            tuner = layer.tuner
            a, b, scaling = tuner.lora_A[NAME].weight, tuner.lora_B[NAME].weight, tuner.scaling[NAME]
        yield key.replace("-", "."), scaling * (b.detach().float() @ a.detach().float())


@torch.no_grad()
def merge(model: MultimodalLM, form: str, projectors: Collection[str] = ()) -> None:
    """Put every LoRA into the LLM's own weights and out of the model, which then gives what it gave, up to rounding.

    ``projectors``: as in :func:`loras`.
    """
    for key, connector in loras(model, form, projectors).items():
        model.handles[key].remove()
        for name, update in updates(connector):
            layer = model.llm.model.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, Tensor)
            # GPT-2 keeps its weights transposed
            weight += (update.T if isinstance(layer, Conv1D) else update).to(weight.dtype)
        del model.connectors[key]
