"""Experiment 3c: LLaMA-Adapter V1's one vector of a picture against tokens of it, on presence and position."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better, larger_gap, not_worse
from benchmarks.claims.infmllm import STEPS

_GLOBAL = "{type: llama_adapter, from: image, prompts: 10, fusion: global}"

EXPERIMENT = Experiment(
    title="LLaMA-Adapter V1 with pictures: one vector for all of a picture",
    part="c",
    claim=(
        "One vector of the whole picture, added to every prompt, is clearly worse than tokens of it on where things "
        "are, and similar on whether they are there."
    ),
    arms={
        "tokens": Arm("connector", STEPS, same_as="infmllm/pool", note="16 pooled tokens: experiment 1's runs"),
        "global": Arm(
            "connector", (f"connectors.image={_GLOBAL}", *STEPS), note="mean of all patches, added to 60 prompts"
        ),
    },
    tasks=("presence", "where"),
    metrics=("where", "presence"),
    chance={"where": 0.0625, "presence": 0.5},
    tune=("where", "presence"),
    rates=(3e-3, 1e-2, 3e-2),
    comparisons=(
        better("tokens", "global", "where"),
        larger_gap("tokens", "global", "where", "presence"),
        not_worse("global", "tokens", "presence", 0.1),
    ),
    paper=("LLaMA-Adapter V1, ScienceQA test [P]: 78.31 from text alone, 85.19 with the picture's vector.",),
    tried=(
        "Before the grid was chosen: 0.12 / 0.60 (where / presence, seed 99 on test questions) at 0.01, against 1.00 / "
        "1.00 of the tokens; its caption loss was still falling after 400 steps.",
    ),
)
