"""The arms of ``audio_adapters`` on what the frozen audio encoder was not trained for: does a tone rise or fall?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.claims import audio_adapters
from benchmarks.claims.experiment import Experiment, better, not_worse

TONES = ("data.heard.path=runs/claims/data/tones/train.jsonl", "stages.learn.steps=100")

EXPERIMENT = Experiment(
    title="PETL_AST: convolutions in adapters for sound, on glides",
    part="b",
    claim=(
        "The same on something that the encoder was not trained to tell: whether the pitch of a tone rises or falls."
    ),
    arms={
        name: replace(arm, overrides=(*arm.overrides, *TONES)) for name, arm in audio_adapters.EXPERIMENT.arms.items()
    },
    tasks=("tones",),
    metrics=("tones",),
    chance={"tones": 0.5},
    tune=("tones",),
    rates=(2e-3, 4e-3, 8e-3),
    comparisons=(
        better("conformer", "bottleneck", "tones"),
        better("bottleneck", "linear", "tones"),
        not_worse("top half", "conformer", "tones", 0.02),
    ),
    tried=(
        "After 300 steps at 0.004 (a pilot each, seed 99) nothing is left to tell apart: linear 0.94, bottleneck 0.99, "
        "conformer 1.00; loss from step 91 to 120 0.24, 0.15, 0.03. So 100 steps.",
    ),
)
