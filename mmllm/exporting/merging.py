"""The LLM of a run with its LoRA and its new tokens in its weights; what cannot be put there is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
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
    """Put every LoRA, and rows of new tokens, into the LLM's own weights.

    Without new tokens the model gives what it gave, up to rounding; with them it computes nothing afterwards.

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
    _put_rows(model)


def _put_rows(model: MultimodalLM) -> None:
    """Put rows of new tokens (``llm.tokens``) into the LLM's tables: in place of spare ones, or behind the last."""
    tokens, llm = model.llm.tokens, model.llm
    if tokens is None:
        return
    tables = [(llm.model.get_input_embeddings(), tokens.embed)]
    if tokens.head is not tokens.embed:
        tables.append((llm.model.get_output_embeddings(), tokens.head))
    for module, rows in tables:
        for name in ("weight", "bias"):
            new = getattr(rows, name)
            if new is not None:
                old = getattr(module, name)
                put = torch.cat([old[: tokens.first], new.to(old.dtype), old[tokens.first + tokens.n :]])
                setattr(module, name, nn.Parameter(put, requires_grad=False))
                if name == "weight" and tokens.tied:
                    llm.model.get_output_embeddings().weight = module.weight
                old.data = old.data.new_empty(0)  # copies of the head know the old table
    llm.model.get_input_embeddings().num_embeddings = llm.vocab_size
    llm.model.get_output_embeddings().out_features = llm.vocab_size
    llm.model.config.get_text_config().vocab_size = llm.vocab_size
    llm.tokens = None
