"""Experiment 5: LLaVA-MoLE's routed LoRA experts against plain LoRA on domains that contradict each other."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment

EXPERIMENT = Experiment(
    title="LLaVA-MoLE: experts of a LoRA keep conflicting domains apart",
    claim="x",
    arms={
        "lora": Arm("text_mole"),
        "lora, twice the steps": Arm("text_mole", ("stages.learn.steps=400",), rate_of="lora"),
        "mole": Arm("text_mole", ("connectors={mlp: {type: moe_lora, rank: 2, alpha: 4, attention: 2, experts: 3, router_bias: true, balance: llava_mole, balance_weight: 0.01}}", "stages.learn.train={connectors.mlp: 0.01}")),
    },
    tasks=("text_domains",),
    metrics=("text_domains",),
    chance={"text_domains": 0.05},
    tune=("text_domains",),
    rates=(3e-3, 1e-2, 3e-2),
    comparisons=(),
    seeds=(0, 1, 2, 3, 4),
)
