"""Adapters inside the LLM beside plain LoRA."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.measure import Comparison
from benchmarks.speed.moe_lora import EXPERTS, RANK, SHAPES, OneMlp, agree, once, variants

REPEATS = 5
"""Passes of one round: one takes a quarter of a second."""


def moe_lora() -> Comparison:
    """The smaller shape of :mod:`benchmarks.speed.moe_lora`; what each step does is told there."""
    width, hidden, tokens, _ = SHAPES[0]
    llm = OneMlp(width, hidden)
    made = variants(llm)
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(1))

    def work(name: str) -> Any:
        for _ in range(REPEATS):
            once(llm, made[name], x)
        return made[name].result

    def check(_: Any, second: Any) -> None:
        # two adapters compute two things: what is asserted is that the mixture is the one that simple code computes
        once(llm, made["every expert on every token"], x)
        agree(second, made["every expert on every token"].result)

    return Comparison(
        baseline=lambda: work("lora"),
        ours=lambda: work("moe_lora"),
        check=check,
        what=f"MoE-LoRA of {EXPERTS} experts, top-1, rank {RANK}, on a frozen MLP {width} x {hidden}, {tokens} tokens: "
        "forward and backward; equal to every expert on every token",
        against="plain LoRA of the same rank on the same MLP",
    )
