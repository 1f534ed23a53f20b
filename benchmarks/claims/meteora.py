"""Experiment 9: MeteoRA's gates over LoRAs that were trained one by one, on prompts that need two of them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.claims.experiment import Arm, BySeed, Compare, Experiment, better, reached
from benchmarks.claims.lessons import TEXT_TASKS
from benchmarks.claims.routed import PartsRight, Routed

if TYPE_CHECKING:
    from torch import Tensor

    from mmllm.model.model import MultimodalLM

_TASKS = tuple(TEXT_TASKS)
_RANK = 8
_ALL = f"stages.learn.data={{{', '.join(f'{task}: 1.0' for task in _TASKS)}, composite: 1.0}}"
_GATES = (
    f"connectors.inner={{type: moe_lora, rank: {_RANK}, alpha: {2 * _RANK}, targets: mlp, router: linear, "
    f"experts: {len(_TASKS)}, top_k: 2, renormalise: true, supervision_weight: %s, "
    f"supervised: {{{', '.join(f'{task}: {number}' for number, task in enumerate(_TASKS))}, composite: -1}}}}"
)


def into_experts(model: MultimodalLM, tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """LoRAs become the experts of ``moe_lora`` in the order of the arms they come from; the number of tensors."""
    import torch

    from mmllm.model.trainable import skip_if_zero, trainable_state

    own, n_loaded = trainable_state(model), 0
    with torch.no_grad():
        for expert, found in enumerate(tensors.values()):
            for name, value in found.items():
                layer, letter = name.replace(".layers.", ".experts.").removesuffix(".weight").rsplit(".", 1)
                own[f"{layer}.{letter}"][expert].copy_(value if letter == "a" else value.T)
                n_loaded += 1
    skip_if_zero(model)
    return n_loaded


def _merged(share: float) -> Arm:
    """All LoRAs at once, side by side in one of their ranks' sum: the sum of their updates times ``share``."""

    def side_by_side(model: MultimodalLM, tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
        import torch

        from mmllm.model.trainable import skip_if_zero, trainable_state

        with torch.no_grad():
            for name, value in trainable_state(model).items():
                parts = [found[name] for found in tensors.values()]
                value.copy_(torch.cat(parts, dim=0) if name.endswith(".a.weight") else torch.cat(parts, dim=1) * share)
        skip_if_zero(model)
        return len(tensors) * len(trainable_state(model))

    rank = _RANK * len(_TASKS)
    overrides = (f"connectors.inner.rank={rank}", f"connectors.inner.alpha={2 * rank}", "stages.learn.steps=1")
    note = f"sum of the five updates x {share:g}; one step at a rate of 1e-9, since a stage has at least one"
    return Arm("text_meteora", overrides, rates=(1e-9,), start=_TASKS, load=side_by_side, note=note)


def _single(task: str) -> Arm:
    return Arm(
        "text_meteora",
        (f"stages.learn.data={{{task}: 1.0}}",),
        rate_of=None if task == "law" else "law",
        note=f"LoRA on {task} alone, its oracle",
    )


def _gated(weight: float, rate_of: str | None = None) -> Arm:
    return Arm(
        "text_meteora",
        (_GATES % weight, _ALL, "stages.learn.steps=200", "stages.learn.train={connectors.inner.routers: 0.01}"),
        start=_TASKS,
        load=into_experts,
        rates=None if rate_of else (1e-2, 3e-2, 1e-1),
        rate_of=rate_of,
        note=f"the five LoRAs frozen as experts, 2 per token; only gates learn; supervised {weight:g} x",
    )


def _beside_oracles(arms: BySeed) -> float:
    """Mean over tasks of MeteoRA's accuracy less that of the task's own LoRA."""
    return mean(arms["meteora"][f"text_tasks.{task}"] - arms[task][f"text_tasks.{task}"] for task in _TASKS)


EXPERIMENT = Experiment(
    title="MeteoRA: gates taught the task choose among LoRAs, token by token",
    claim=(
        "With LoRAs trained one by one frozen as experts, gates taught the task's id give each task its own LoRA's "
        "accuracy, and answer prompts that need two tasks better than a uniform merge of the LoRAs."
    ),
    arms={
        **{task: _single(task) for task in _TASKS},
        "meteora": _gated(50.0),
        "meteora, less supervised": _gated(1.0, rate_of="meteora"),
        "uniform merge": _merged(1 / len(_TASKS)),
        "sum of all": _merged(1.0),
    },
    tasks=("text_tasks", "text_composite"),
    metrics=("text_composite.parts", "text_composite", "text_tasks", "gates_named", "gates"),
    tune=("text_tasks",),
    rates=(5e-3, 1e-2, 2e-2),
    comparisons=(
        better("meteora", "uniform merge", "text_composite.parts"),
        better("meteora, less supervised", "uniform merge", "text_composite.parts"),
        reached("meteora", "gates_named", 0.9),
        Compare("meteora >= each task's own LoRA in text_tasks (allowance 0.02)", _beside_oracles, margin=0.02),
    ),
    paper=(
        "MeteoRA vs one joint LoRA, composite-10 [R README]: strategyqa .461/.211, winowhy .422/.078, disfl_qa "
        ".266/.117, goal_step .773/.727, abstract_narrative .625/.672, alpaca BLEU 0.00/8.17.",
    ),
    tried=(
        "text_composite.parts scores the two answers of a composite one by one, as the paper does. gates_named counts "
        "from the task's name on: what stands before it (the turn's start) cannot tell the task.",
        "LoRAs on all linear layers: the routers of q, k and v in the first two blocks see little but the token itself "
        "(accuracy 0.47-0.83, 0.92 from block 2 on), so the LoRAs stand in the MLPs. Gates taught by single tasks "
        "alone never answer a composite; composites without a label are half of the gates' data.",
        "Pilots, 0.03 and 300 steps, supervision 1: single tasks 0.65, parts of composites 0.087 (uniform merge 0.003, "
        "their sum 0.000), gates 0.79. LoRAs on all linear layers, 0.05 and 150 steps, no composites: gates 0.94 and "
        "single tasks 0.33 with supervision 50 (the code's), 0.82 and 0.77 with 1.",
    ),
    measures=(Routed("text_tasks"), PartsRight()),
)
