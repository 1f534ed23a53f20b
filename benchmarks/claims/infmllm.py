"""Experiment 1: InfMLLM's pool against a perceiver resampler on where things are, at equal tokens and steps."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better, larger_gap, reached

_PERCEIVER = "{type: resampler, from: image, latents: 16, depth: 2, heads: 4, head_dim: 32}"

EXPERIMENT = Experiment(
    title="InfMLLM: tokens that own a region know where things are",
    claim=(
        "At 16 tokens and equal steps, pooling blocks of patches beats a perceiver resampler on telling where a thing "
        "is, and by more than on telling whether it is there."
    ),
    arms={
        "pool": Arm("connector", note="mean over 2 x 2 patches, MLP"),
        "perceiver": Arm("connector", (f"connectors.image={_PERCEIVER}",), note="16 learned latents, 2 blocks"),
        "pixel_shuffle": Arm(
            "connector",
            ("connectors.image={type: pixel_shuffle, from: image, factor: 2}",),
            note="control: 2 x 2 patches side by side, MLP",
        ),
        "every patch": Arm(
            "connector",
            ("connectors.image={type: pool, from: image, grid: [8, 8], depth: 2, norm: true}",),
            note="control: MLP on each of the 64 patches",
        ),
    },
    tasks=("presence", "where"),
    metrics=("where", "presence"),
    chance={"where": 0.0625, "presence": 0.5},
    tune=("where", "presence"),
    rates=(3e-3, 1e-2, 2e-2),
    comparisons=(
        reached("perceiver", "presence", 0.9),
        better("pool", "perceiver", "where"),
        larger_gap("pool", "perceiver", "where", "presence"),
    ),
    paper=(
        "InfMLLM-7B vs Qwen-VL-7B (system comparison) [P]: RefCOCO testA/testB 94.62/89.30 vs 92.26/85.34, RefCOCOg "
        "test 89.78 vs 85.48, VQAv2 81.95 vs 79.5.",
        "DeCo, arXiv 2405.20985 (controlled: 2-D average pool + MLP vs Q-Former, 576 -> 64 tokens) [S]: +7.1 % visual "
        "localisation, +2.9 % open VQA.",
    ),
)
