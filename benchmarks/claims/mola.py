"""Experiment 6: MoLA's experts by depth at equal totals, and against LoRA of as many parameters."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.claims.experiment import Arm, Compare, Experiment, better

_MOLA = (
    "type: moe_lora, rank: 2, alpha: 4, targets: all-linear, router: linear, top_k: 2, renormalise: true, "
    "experts_mean: 5"
)


def _allocated(name: str, counts: Sequence[int]) -> Arm:
    note = f"{' '.join(map(str, counts))} experts of rank 2 in the six blocks, 2 per token"
    return Arm("text_mola", (f"connectors.inner={{{_MOLA}, experts: {name}}}",), rate_of=_same(name), note=note)


def _same(name: str) -> str | None:
    """The allocations differ in nothing else and take the rate of the uniform one."""
    return None if name == "uniform" else "uniform"


def _reported(a: str, b: str) -> Compare:
    says = f"{a} > {b} in text_domains"
    return Compare(says, lambda arms: arms[a]["text_domains"] - arms[b]["text_domains"], kind="report")


EXPERIMENT = Experiment(
    title="MoLA: how many experts each layer should have",
    claim=(
        "At equal totals, more experts in higher layers do at least as well as equally many everywhere or more in "
        "lower ones (reported, whatever comes out); and MoLA beats LoRA of as many parameters."
    ),
    arms={
        "lora": Arm("text_mola", note="rank 12: 2 % fewer parameters than MoLA"),
        "uniform": _allocated("uniform", (5, 5, 5, 5, 5, 5)),
        "inverted_triangle": _allocated("inverted_triangle", (2, 2, 4, 7, 6, 9)),
        "triangle": _allocated("triangle", (7, 7, 6, 4, 4, 2)),
    },
    tasks=("text_domains",),
    metrics=("text_domains",),
    chance={"text_domains": 0.05},
    tune=("text_domains",),
    rates=(5e-3, 1e-2, 2e-2),
    comparisons=(
        better("uniform", "lora", "text_domains"),
        better("inverted_triangle", "lora", "text_domains"),
        _reported("inverted_triangle", "uniform"),
        _reported("inverted_triangle", "triangle"),
        _reported("uniform", "triangle"),
    ),
    paper=(
        "MoLA, LLaMA-2-7B, MRPC/COLA/RTE/SciQA/CSQA/OBQA [P]: LoRA r64 83.13/86.29/85.92/91.01/75.51/77.0; 5555 "
        "84.23/86.28/85.20/92.04/78.13/80.0; triangle 8642 84.64/85.43/84.84/91.90/77.23/77.6; inverted 2468 "
        "83.48/86.87/86.28/92.36/78.95/79.6; diamond 2882 83.01/86.19/89.17/92.00/77.81/82.6.",
    ),
    tried=(
        "On the five text_tasks both LoRA and uniform MoLA reach 0.85 after 150 steps (pilot): four tasks at 1.0, one "
        "that is learned by heart at 0.3; the domains that contradict each other tell more. The paper's load balance "
        "is off by default in its code, and here.",
    ),
)
