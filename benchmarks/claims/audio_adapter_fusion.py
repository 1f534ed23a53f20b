"""Fusion of frozen task adapters without knowing the task, against the right adapter and against the wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.claims.experiment import Arm, Compare, Experiment

if TYPE_CHECKING:
    from benchmarks.claims.finished import Finished

TASKS = {"sound": "heard", "tone": "tones"}
"""Task, which is the kind of its questions -> where they are."""
ALPHA = (1e-2, 3e-2, 1e-1)
"""Rates of what mixes the adapters: a few numbers, in 60 steps."""


def routed(finished: Finished) -> dict[str, float]:
    """Mean over tasks: ``fused`` as trained, ``oracle`` with each task's own adapter, ``wrong`` with the other's."""
    from benchmarks.claims.tasks import benchmark_of
    from mmllm.connectors.encoder_adapters.audio_adapter_fusion import AudioAdapterFusionConnector
    from mmllm.evaluation.run import evaluate_with
    from mmllm.generation.generator import Generator

    connector = finished.model.connectors["fusion"]
    assert isinstance(connector, AudioAdapterFusionConnector)
    found: dict[str | None, dict[str, float]] = {}
    for only in (None, *TASKS):
        connector.only = only
        out = finished.run.parent / f"only-{only}"  # a folder of its own: the weights are the same
        found[only] = {}
        for kind, task in TASKS.items():
            asked = {benchmark_of(task): {"task": task, "split": finished.split}}
            results = evaluate_with(Generator(finished.model), finished.recipe, out, asked)
            found[only][kind] = results["benchmarks"][task]["kinds"][kind]["score"]
    connector.only = None
    right = [found[task][task] for task in TASKS]
    wrong = [found[other][task] for task, other in zip(TASKS, reversed(list(TASKS)), strict=True)]
    fused = [found[None][task] for task in TASKS]
    return {"fused": sum(fused) / 2, "oracle": sum(right) / 2, "wrong": sum(wrong) / 2}


def _comparisons(arm: str) -> tuple[Compare, Compare]:
    return (
        Compare(f"{arm}: fused >= oracle (allowance 0.02)", lambda a: a[arm]["fused"] - a[arm]["oracle"], 0.02),
        Compare(f"{arm}: fused > wrong adapter", lambda a: a[arm]["fused"] - a[arm]["wrong"]),
    )


EXPERIMENT = Experiment(
    title="Audio-AdapterFusion: several tasks' adapters without a task id",
    claim=(
        "Frozen adapters of two tasks mixed by what is learned without the task's name do as well as the right one of "
        "them (within 2 points), and better than the wrong one."
    ),
    arms={
        "tasks": Arm("heard_tasks", note="align, then an adapter per task; mixed evenly afterwards"),
        "learned": Arm("heard_fuse", rates=ALPHA, start=("tasks",), note="one number per adapter and block"),
        "attention": Arm(
            "heard_fuse",
            ("connectors.fusion.alpha=attention",),
            rates=ALPHA,
            start=("tasks",),
            note="softmax of a linear map of each token",
        ),
    },
    tasks=("heard", "tones"),
    metrics=("fused", "oracle", "wrong", "heard.sound", "tones"),
    tune=("fused",),
    rates=(2e-3, 4e-3, 8e-3),
    measures=(routed,),
    comparisons=(*_comparisons("learned"), *_comparisons("attention")),
    paper=("17 % of the weights, mean WER 8 % better than full tuning, on par with routing by task id [A].",),
    tried=(
        "First with two questions about the same clips (which sound, in which manner) as tasks: mixed evenly 0.30, "
        "right adapter 0.83, wrong one 0.02 (one run, seed 99). What is heard then does not tell the task, so nothing "
        "that reads the sound alone could choose; the tasks now differ in what is heard, as the paper's do.",
    ),
)
