"""The claims' mixtures: LoRAs trained one by one keep their effect as experts and merged; mutual information."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from benchmarks.claims.experiment import Load
from benchmarks.claims.meteora import EXPERIMENT, into_experts
from benchmarks.claims.routed import _bits
from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import trainable_state
from tests.support.assemblies import Row, batch_of
from tests.support.parts import tiny_llm

_MLP = ["gate_proj", "up_proj", "down_proj"]
_ROWS = (Row(1, (4, 5, 6)), Row(2, (7,)))


def _with(make: Callable[[int], Connector]) -> MultimodalLM:
    llm = tiny_llm("llama")
    return MultimodalLM(llm, {}, {"inner": make(llm.dim)}, {}).requires_grad_(False).eval()


def _lora(rank: int, seed: int) -> MultimodalLM:
    """A LoRA on the MLPs with weights that are not zero."""
    model = _with(lambda dim: LoraConnector(llm_dim=dim, rank=rank, alpha=2 * rank, targets=_MLP))
    random = torch.Generator().manual_seed(seed)
    for value in trainable_state(model).values():
        value.data.copy_(torch.randn(value.shape, generator=random) * 0.3)
    return model


def _states(count: int, rank: int = 4) -> dict[str, Mapping[str, Tensor]]:
    return {f"task {seed}": trainable_state(_lora(rank, seed)) for seed in range(count)}


def _nll(model: MultimodalLM) -> float:
    for connector in model.connectors.values():
        connector.skip_if_zero()  # type: ignore[operator]
    return float(model(batch_of(model, _ROWS))[0])


@pytest.mark.parametrize("expert", [0, 1, 2])
def test_a_lora_chosen_by_every_gate_is_the_lora(expert: int) -> None:
    mixture = _with(
        lambda dim: MoeLoraConnector(
            llm_dim=dim, rank=4, alpha=8, experts=3, router="linear", router_bias=True, top_k=2, renormalise=True
        )
    )
    assert into_experts(mixture, _states(3)) == len(_states(1)["task 0"]) * 3
    for name, value in trainable_state(mixture).items():
        if ".routers." in name:
            value.data.zero_()
            if name.endswith("bias"):
                value.data[expert] = 100.0
    assert _nll(mixture) == pytest.approx(_nll(_lora(4, expert)), abs=1e-4)
    assert abs(_nll(_lora(4, 0)) - _nll(_lora(4, 1))) > 1e-2


@pytest.mark.parametrize(("arm", "copies"), [("uniform merge", 1), ("sum of all", 5)])
def test_five_equal_loras_merge_to_one(arm: str, copies: int) -> None:
    load: Load | None = EXPERIMENT.arms[arm].load
    assert load is not None
    merged = _lora(20, 9)
    load(merged, {str(number): trainable_state(_lora(4, 0)) for number in range(5)})
    single = _lora(4, 0)
    for name, value in trainable_state(single).items():
        if name.endswith(".b.weight"):
            value.data.mul_(copies)
    assert _nll(merged) == pytest.approx(_nll(single), abs=1e-4)


def test_mutual_information() -> None:
    assert _bits([0, 0, 1, 1], ["a", "a", "b", "b"]) == pytest.approx(1.0)
    assert _bits([0, 1, 0, 1], ["a", "a", "b", "b"]) == pytest.approx(0.0)
