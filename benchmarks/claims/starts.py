"""Weights that are computed before the first step (norm: calibrated, start: scaled and words), on captions."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.claims.experiment import Arm, Experiment, better
from benchmarks.claims.measures import LossAt

STEPS = ("stages.align.steps=120", "stages.align.warmup=0.05")
AT = (20, 60, 120)
"""Steps at which the loss is read."""


def _arm(words: str, note: str) -> Arm:
    """The same projector and the same steps with other words for where it begins."""
    image = f"connectors.image={{type: pool, from: image, grid: [4, 4], depth: 2, {words}}}"
    return Arm("visual_captions", (image, *STEPS), note=note)


EXPERIMENT = Experiment(
    title="Weights computed from data before the first step",
    claim=(
        "A norm set from items (`norm: calibrated`), tokens scaled to the LLM's embeddings (`start: scaled`) and a "
        "last layer fitted to the words of captions (`start: words`) each bring the loss down sooner at equal steps."
    ),
    arms={
        "drawn": _arm("norm: true", "LayerNorm that begins at 1 and 0, drawn weights"),
        "calibrated": _arm(
            "norm: calibrated, norm_after: true", "every channel of mean 0 and deviation 1 between items"
        ),
        "scaled": _arm(
            "norm: calibrated, norm_after: true, start: scaled",
            "calibrated, tokens as far apart as embeddings are long",
        ),
        "words": _arm(
            "norm: calibrated, norm_after: true, start: words", "calibrated, last layer fitted to the captions' words"
        ),
    },
    tasks=("captions",),
    metrics=("captions", *(f"loss@{step}" for step in AT)),
    tune=(f"loss@{AT[-1]}",),
    tune_lower=True,
    rates=(1e-2,),
    comparisons=(
        better("calibrated", "drawn", f"loss@{AT[0]}", lower=True),
        better("scaled", "calibrated", f"loss@{AT[0]}", lower=True),
        better("words", "calibrated", f"loss@{AT[0]}", lower=True),
        replace(better("words", "scaled", f"loss@{AT[0]}", lower=True), kind="report"),
        replace(better("calibrated", "drawn", f"loss@{AT[-1]}", lower=True), kind="report"),
        replace(better("words", "calibrated", f"loss@{AT[-1]}", lower=True), kind="report"),
    ),
    measures=(LossAt(AT),),
)
