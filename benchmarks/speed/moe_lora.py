"""MoE-LoRA beside plain LoRA on a frozen MLP, forward and backward: ``python -m benchmarks.speed.moe_lora``.

One thread, CPU time of the process, the variants one after the other in every round of one run; a first round warms up
and checks that all ways of computing the mixture agree. Rewrites benchmarks/speed/MOE_LORA.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from benchmarks.demo import machine
from mmllm import hooks
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.llm_adapters.moe_lora.experts import Experts
from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
from mmllm.hooks import Change, ChangeOutput, ForwardContext, Handle, Scope
from mmllm.hooks.passes import text_context

RESULTS = Path("benchmarks/speed/MOE_LORA.md")
EXPERTS, RANK, BOUND = 4, 32, 1.15
SHAPES = ((512, 1408, 2048, 15), (2048, 5504, 1024, 7))
"""Width, MLP width, tokens, rounds."""


class OneMlp:
    """As much of ``CausalLM`` as these two connectors ask for: one block that is an MLP."""

    n_blocks = 1

    def __init__(self, width: int, hidden: int) -> None:
        """A random, frozen Llama MLP."""
        torch.manual_seed(0)
        self.dim = width
        self.scope: Scope[ForwardContext] = Scope()
        self.mlp = LlamaMLP(LlamaConfig(hidden_size=width, intermediate_size=hidden)).requires_grad_(False)

    def linears(self, targets: Any = None) -> dict[str, nn.Module]:
        """The MLP's three layers."""
        return {name: module for name, module in self.mlp.named_modules() if isinstance(module, nn.Linear)}

    def block_linears(self, index: int) -> dict[str, dict[str, nn.Module]]:
        """No attention."""
        return {"attention": {}, "mlp": self.linears()}

    def before_mlp(self, index: int, change: Change) -> Handle:
        """A hook on the MLP's input."""
        return hooks.before(self.mlp, change, self.scope)

    def after_linear(self, name: str, change: ChangeOutput) -> Handle:
        """A hook on a layer's output."""
        return hooks.after(self.mlp.get_submodule(name), change, self.scope)


class Naive(nn.Module):
    """The same mixture as simple code has it: every expert on every token, times a weight that is mostly zero."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.shared = experts
        self.idle = False

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor, *_: Any) -> Tensor:
        """float[T, dim] -> float[T, out]."""
        full = weights.new_zeros(len(x), len(self.shared.a)).scatter(1, chosen, weights) * self.shared.scaling
        parts = zip(self.shared.a, self.shared.b, full.T, strict=True)
        return torch.stack([(x @ a.T @ b) * weight[:, None] for a, b, weight in parts]).sum(dim=0)


class Masked(Naive):
    """One product with all A, the columns of other experts set to zero, one product with all B."""

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor, *_: Any) -> Tensor:
        """float[T, dim] -> float[T, out]."""
        return self.shared(x, weights, chosen, None, None, None)


@dataclass
class Variant:
    """One way, its learned weights, and its seconds per round."""

    connector: Any
    shared: nn.Module
    seconds: list[float]
    result: tuple[Tensor, ...] = ()


def variants(llm: OneMlp) -> dict[str, Variant]:
    """Frozen MLP, plain LoRA, and the mixture computed in three ways with the same weights."""
    lora = LoraConnector(llm_dim=llm.dim, rank=RANK, alpha=2 * RANK)
    moe = MoeLoraConnector(llm_dim=llm.dim, rank=RANK, alpha=2 * RANK, experts=EXPERTS, router_bias=True)
    for connector in (lora, moe):
        connector.attach(llm).remove()
        for name, parameter in connector.named_parameters():
            if name.endswith(("b", "b.weight")):
                nn.init.normal_(parameter, std=0.02)
    made: dict[str, Variant] = {"frozen MLP": Variant(None, nn.Module(), []), "lora": Variant(lora, lora, [])}
    for name, kind in (("moe_lora", None), ("masked", Masked), ("every expert on every token", Naive)):
        other = moe
        if kind is not None:
            other = MoeLoraConnector(llm_dim=llm.dim, rank=RANK, alpha=2 * RANK, experts=EXPERTS, router_bias=True)
            other.routers = moe.routers
            other.experts = nn.ModuleDict({key: kind(layer) for key, layer in moe.experts.items()})  # type: ignore[arg-type]
        made[name] = Variant(other, moe, [])
    return made


def once(llm: OneMlp, variant: Variant, x: Tensor) -> float:
    """CPU seconds of one forward and backward pass; gradients are kept as the variant's result."""
    handle = variant.connector.attach(llm) if variant.connector is not None else None
    learned = list(variant.shared.parameters())
    for parameter in learned:
        parameter.grad = None
    x = x.clone().requires_grad_()
    tokens = x.shape[1]
    ctx = text_context(torch.zeros(tokens, dtype=torch.int64), torch.tensor([0, tokens], dtype=torch.int32))
    start = time.process_time()
    with llm.scope.open(ctx):
        y = llm.mlp(x)
    if variant.connector is not None:  # counting who uses which expert is part of the work
        variant.connector.metrics(ctx)
    y.square().mean().backward()
    seconds = time.process_time() - start
    variant.result = tuple(t.detach() for t in (y, x.grad, *(p.grad for p in learned)) if t is not None)
    if handle is not None:
        handle.remove()
    return seconds


def measure(width: int, hidden: int, tokens: int, rounds: int) -> dict[str, Variant]:
    """Seconds of every variant in ``rounds`` rounds after a warm-up. Raises AssertionError where results differ."""
    llm = OneMlp(width, hidden)
    made = variants(llm)
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(1))
    for number in range(rounds + 1):
        for variant in made.values():
            seconds = once(llm, variant, x)
            if number:
                variant.seconds.append(seconds)
        if not number:
            for name in ("masked", "every expert on every token"):
                agree(made["moe_lora"].result, made[name].result)
    return made


def agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Raises AssertionError where output or gradients differ by more than 1e-4 of the largest value."""
    for one, other in zip(ours, theirs, strict=True):
        error = (one - other).abs().max() / other.abs().max()
        assert error < 1e-4, f"another way of the same mixture differs by {error:.1e}"


def table(made: dict[str, Variant]) -> str:
    """Markdown; the ratio is the median over rounds of the ratio inside a round."""
    lines = ["| | CPU seconds: median (min-max) | n | times lora: median (min-max) |", "|---|---|---|---|"]
    for name, variant in made.items():
        values = variant.seconds
        ratios = [one / other for one, other in zip(values, made["lora"].seconds, strict=True)]
        lines.append(
            f"| {name} | {median(values):.3f} ({min(values):.3f}-{max(values):.3f}) | {len(values)} "
            f"| {median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all shapes and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.moe_lora", description=__doc__)
    parser.parse_args(argv)
    torch.set_num_threads(1)
    parts = []
    for width, hidden, tokens, rounds in SHAPES:
        made = measure(width, hidden, tokens, rounds)
        parts.append(f"## Width {width}, MLP {hidden}, {tokens} tokens\n\n{table(made)}\n")
        print(parts[-1])
    RESULTS.write_text(
        "# MoE-LoRA beside plain LoRA\n\nWritten by `python -m benchmarks.speed.moe_lora`. A frozen Llama MLP, forward "
        f"and backward, float32; rank {RANK}; the mixtures have {EXPERTS} experts, top-1, one router, and agree in "
        "output and gradients to 1e-4 of the largest value. One thread, CPU time of the process, the variants one "
        f"after the other in each of n rounds after a warm-up. Wanted: moe_lora within {BOUND} times lora.\n\n"
        f"Machine: {machine()}.\n\n" + "\n".join(parts)
    )


if __name__ == "__main__":
    main()
