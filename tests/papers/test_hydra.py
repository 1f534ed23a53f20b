"""Hydra: equal to the paper's equation, merged into plain layers and taken out again, on layers of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmllm.connectors.llm_adapters.hydra import HydraConnector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of
from tests.support.forward import logits
from tests.support.parts import randomise, tiny_llm, tiny_model

ROWS = (Row(1, (8,)), Row(2, (12,)))


def with_hydra(family: str = "llama", **words: Any) -> MultimodalLM:
    """A tiny LLM with Hydra under the key ``hydra``, random weights."""
    llm = tiny_llm(family)
    model = MultimodalLM(llm, {}, {"hydra": HydraConnector(llm_dim=llm.dim, **words)}, {}).eval()
    randomise(model.connectors["hydra"])
    return model


class Plain(nn.Module):
    """h = y0 + s U_p D_p x + s U_s D_s y0 with y0 = W0 x + b0, written from the paper."""

    def __init__(self, base: nn.Module, weights: dict[str, torch.Tensor], scale: float) -> None:
        super().__init__()
        self.base, self.weights, self.scale = base, weights, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y0 = self.base(x)
        h = y0
        for name, read in (("parallel", x), ("sequential", y0)):
            if f"{name}.0.weight" in self.weights:
                for layer in "01":
                    read = read @ self.weights[f"{name}.{layer}.weight"].T + self.weights.get(f"{name}.{layer}.bias", 0)
                h = h + self.scale * read
        return h


@pytest.mark.parametrize(("ranks", "bias"), [((2, 3), False), ((2, 0), False), ((0, 3), False), ((2, 3), True)])
@pytest.mark.parametrize(
    ("family", "layers"),
    [("llama", ["mlp.down_proj"]), ("gpt2", ["mlp.c_proj"]), ("opt", ["fc2"]), ("qwen2", ["q_proj", "mlp.down_proj"])],
)
@torch.no_grad()
def test_equals_the_papers_equation_and_merges(
    family: str, layers: list[str], ranks: tuple[int, int], bias: bool
) -> None:
    """Without bias (Llama), with (OPT, Qwen's q_proj), transposed (GPT-2); the MLP's last linear unless named."""
    words: dict[str, Any] = {"targets": layers} if len(layers) > 1 else {}
    model = with_hydra(family, parallel_rank=ranks[0], sequential_rank=ranks[1], scale=0.7, bias=bias, **words)
    hydra, batch = model.connectors["hydra"], batch_of(model, ROWS)
    assert isinstance(hydra, HydraConnector)
    ours = logits(model, batch)
    theirs = tiny_model(family)
    targets = [name for name in model.llm.linears() if name.endswith(tuple(f".{layer}" for layer in layers))]
    assert {name.replace(".", "-") for name in targets} == set(hydra.layers)
    for name in targets:
        parent, _, child = name.rpartition(".")
        weights = dict(hydra.layers[name.replace(".", "-")].named_parameters())
        setattr(theirs.get_submodule(parent), child, Plain(theirs.get_submodule(name), weights, 0.7))
    for start, end in ((0, 8), (8, 20)):
        expected = theirs(input_ids=batch.input_ids[None, start:end]).logits[0]
        torch.testing.assert_close(ours[start:end], expected, atol=1e-5, rtol=1e-5)
    names, before = list(model.llm.state_dict()), model.llm.linears()
    merged = hydra.merge(model.llm)
    assert all(not layer._forward_hooks for name, layer in model.llm.linears().items() if name in targets)
    gained = {f"model.{name}.bias" for name in targets} if bias else set()
    assert set(model.llm.state_dict()) == {*names, *gained}
    assert (logits(model, batch) - ours).abs().max() <= 1e-5
    merged.remove()
    assert all(layer is before[name] for name, layer in model.llm.linears().items())
    assert torch.equal(logits(model, batch), ours)


@torch.no_grad()
def test_merged_weight_is_the_papers() -> None:
    """W = W0 + s (U_p D_p + U_s D_s W0), b = b0 + s U_s D_s b0."""
    model = with_hydra("opt", scale=0.5)
    name, base = next((n, m) for n, m in model.llm.linears().items() if n.endswith("fc2"))
    weights = dict(model.connectors["hydra"].layers[name.replace(".", "-")].named_parameters())  # type: ignore[union-attr, index]
    parallel = weights["parallel.1.weight"] @ weights["parallel.0.weight"]
    sequential = weights["sequential.1.weight"] @ weights["sequential.0.weight"]
    model.connectors["hydra"].merge(model.llm)  # type: ignore[operator]
    plain = model.llm.linears()[name]
    torch.testing.assert_close(plain.weight, base.weight + 0.5 * (parallel + sequential @ base.weight))
    torch.testing.assert_close(plain.bias, base.bias + 0.5 * sequential @ base.bias)
    assert not plain.weight.requires_grad


def test_does_not_merge_where_something_would_be_lost() -> None:
    """Another connector on the same layer, or work in some conversations only."""
    model = with_hydra()
    LoraConnector(llm_dim=32, rank=2).attach(model.llm)
    with pytest.raises(MmllmError, match=r"not attached to model\.layers\.0\.mlp\.down_proj, or another connector"):
        model.connectors["hydra"].merge(model.llm)  # type: ignore[operator]
    model = with_hydra()
    model.connectors["hydra"].when = ("image",)  # type: ignore[assignment]
    with pytest.raises(MmllmError, match="`when:`"):
        model.connectors["hydra"].merge(model.llm)  # type: ignore[operator]


def test_bad_ranks_and_targets() -> None:
    for ranks in ((0, 0), (-1, 2)):
        with pytest.raises(MmllmError, match="must be >= 0, one of them above 0"):
            with_hydra(parallel_rank=ranks[0], sequential_rank=ranks[1])
    with pytest.raises(MmllmError, match="no linear layer of this LLM is called 'wo'"):
        with_hydra(targets=["wo"])
