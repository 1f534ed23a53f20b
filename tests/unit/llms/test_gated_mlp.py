"""A gated MLP keeps two of its four wide tensors for the backward pass, and gives the same bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from mmllm.llms.gated_mlp import keep_less
from tests.support.parts import FAMILIES, tiny_llm

CONFIG = LlamaConfig(hidden_size=16, intermediate_size=40, num_attention_heads=2)


def mlp_of(learns: bool) -> LlamaMLP:
    torch.manual_seed(0)
    return LlamaMLP(CONFIG).requires_grad_(learns)


def low_rank(mlp: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A LoRA on the last layer: what it learns from is what that layer reads."""
    torch.manual_seed(1)
    a, b = nn.Linear(40, 2, bias=False), nn.Linear(2, 16, bias=False)
    mlp.down_proj.register_forward_hook(lambda _, args, out: out + b(a(args[0])))  # type: ignore[union-attr]
    return a, b


def gradients(mlp: nn.Module, learned: list[Tensor]) -> list[Tensor]:
    """Output, and the gradients of the input and of ``learned``."""
    x = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = mlp(x)
    y.square().sum().backward()
    return [y.detach(), *(one.grad for one in [x, *learned] if one.grad is not None)]


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_outputs_and_gradients_are_the_same_bits(learns: bool, lora: bool) -> None:
    plain = mlp_of(learns)
    lean = copy.deepcopy(plain)
    found = []
    for mlp in (plain, lean):
        extra = [tensor for layer in low_rank(mlp) for tensor in layer.parameters()] if lora else []
        if mlp is lean:
            assert keep_less(mlp, lambda: True) is not None
        found.append(gradients(mlp, [*extra, *mlp.parameters()]))
    assert len(found[0]) == len(found[1]) == 2 + 2 * lora + 3 * learns
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(("wanted", "expected"), [(False, 4), (True, 2)])
def test_what_is_kept(wanted: bool, expected: int) -> None:
    """Of the tensors as wide as the MLP a frozen one with LoRA keeps two instead of four."""
    mlp = mlp_of(False)
    low_rank(mlp)
    assert keep_less(mlp, lambda: wanted) is not None
    y = mlp(torch.randn(1, 7, 16, requires_grad=True))
    nodes, seen = [y.grad_fn], set()
    wide: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            saved = [getattr(node, name) for name in dir(node) if name.startswith("_raw_saved_")]
            kept = [one.data for one in saved if isinstance(one.data, Tensor)]
            wide |= {one.data_ptr() for one in kept if one.shape[-2:] == (7, 40)}
    assert len(wide) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_families_whose_mlp_is_gated_keep_less(family: str) -> None:
    llm = tiny_llm(family)
    # Phi-3 has one layer for gate and up, GPT-2 and OPT have none to multiply with
    assert ("forward" in llm.parts(0).mlp_first.__dict__) == (family not in ("gpt2", "opt", "phi3"))


def test_another_mlp_of_the_same_names_is_left_alone() -> None:
    class Other(LlamaMLP):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    assert keep_less(Other(CONFIG), lambda: True) is None
