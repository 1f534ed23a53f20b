"""Experiment: TextHawk's four parts, each left out alone, at 16 patches to a token."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better

_STEPS = ("stages.align.steps=700", "stages.learn.steps=400")
_LAYERS = "encoders.image.layers=[1,3,5]"
_LEVELS = "layers: 3, levels: [2, 1, 0]"


def _arm(words: str, note: str, layers: str = _LAYERS) -> Arm:
    """TextHawk's resampler with these words, four tokens to a picture of 64 patches."""
    connector = f"connectors.image={{type: texthawk, from: image, depth: 3, heads: 4, {words}}}"
    return Arm("connector", (connector, layers, *_STEPS), note=note)


EXPERIMENT = Experiment(
    title="TextHawk: two steps of compression, proposed queries, positions, several depths",
    claim=(
        "At 16 patches to a token each of TextHawk's four parts helps to tell where a thing is: resampling and "
        "rearrangement above resampling alone, queries proposed by the picture above learned ones, three depths of the "
        "encoder above the last, scalable positions above none."
    ),
    arms={
        "whole": _arm(_LEVELS, "all four parts"),
        "one step": _arm(f"{_LEVELS}, resample: [4, 4], rearrange: [1, 1]", "without ReSA: resampling alone"),
        "learned": _arm(f"{_LEVELS}, queries: learned, source_grid: [8, 8]", "without QPN: learned queries"),
        "last": _arm("layers: 1", "without MLCA: the last layer alone", "encoders.image.layers=[5]"),
        "no positions": _arm(f"{_LEVELS}, positions: none", "without SPE"),
    },
    tasks=("presence", "where"),
    metrics=("where", "presence"),
    chance={"where": 0.0625, "presence": 0.5},
    tune=("where", "presence"),
    rates=(3e-3,),
    comparisons=(
        better("whole", "one step", "where"),
        better("whole", "learned", "where"),
        better("whole", "last", "where"),
        better("whole", "no positions", "where"),
    ),
    paper=(
        "TextHawk (arXiv 2404.09204) [P], RefCOCO: one step of 16 times 50.61, ReSA 52.78, with MLCA 56.75, with QPN "
        "58.21; positions none 79.13, of cells 82.65, of patches 83.74. DocVQA without positions 67.68, of patches "
        "69.65.",
    ),
    tried=(
        "One pilot of all four parts (seed 99, rate 0.003), 300 + 200 steps: at chance, presence 0.39, where 0.05; the "
        "loss still fell in both stages (captions 1.12, questions 1.40). After 700 + 400 steps, one pilot: presence "
        "0.47, where 0.19, so the stages have these lengths. Arms that fail do so in whole runs (where about 0.22): "
        "they have not begun to look when the steps end; a difference is of how soon.",
    ),
)
