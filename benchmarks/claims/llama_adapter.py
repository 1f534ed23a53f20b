"""Experiment 3: LLaMA-Adapter's gates from zero against gates that are open from the first step, on text."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better
from benchmarks.claims.measures import LossAt

EXPERIMENT = Experiment(
    title="LLaMA-Adapter: zero gates",
    claim="z",
    arms={
        "zero": Arm("text_prompts", note="gates from 0: the LM itself at the first step"),
        "random": Arm(
            "text_prompts", ("connectors.prompts.init=random",), note="gates from 1: random prompts read at once"
        ),
    },
    tasks=("text_tasks",),
    metrics=("loss@50", "loss@250", "loss@500", "text_tasks"),
    tune=("text_tasks",),
    rates=(1e-2, 3e-2, 1e-1),
    seeds=(0, 1, 2, 3, 4),
    measures=(LossAt((50, 250, 500)),),
    comparisons=(better("zero", "random", "text_tasks"),),
)
