"""Dolphin: learned memory tokens against means of equal length, and how much a reader is spared."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better

EXPERIMENT = Experiment(
    title="Dolphin: a text as a few memory tokens",
    claim=(
        "Memory tokens behind a text, compressed by a small model, let the LLM recall its facts better than means over "
        "as many parts of it; more tokens recall more."
    ),
    arms={
        "memory_8": Arm("document", note="8 memory tokens"),
        "mean_8": Arm("document", ("connectors.document.compress=mean",), note="means over 8 parts"),
        "memory_4": Arm("document", ("connectors.document.slots=4",), note="4 memory tokens", rate_of="memory_8"),
    },
    tasks=("facts",),
    metrics=("facts", "facts.facts_4", "facts.facts_8"),
    tune=("facts",),
    rates=(2e-3, 4e-3, 8e-3),
    blind=True,
    comparisons=(better("memory_8", "mean_8", "facts"), better("memory_8", "memory_4", "facts")),
)
