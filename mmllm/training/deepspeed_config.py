"""DeepSpeed's configuration of a stage from the recipe's words, with the ``deepspeed:`` block over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmllm.errors import RecipeError
from mmllm.recipe.checks import MONITORS, OURS
from mmllm.recipe.models import Stage


def micro_batches(stage: Stage, world: int, where: str) -> tuple[int, int]:
    """(conversations per forward on one rank, forwards per step); RecipeError if they do not make up ``batch``."""
    if stage.batch % world:
        raise RecipeError(f"{where}.batch is {stage.batch}, which {world} GPUs cannot share evenly; use a multiple")
    share = stage.batch // world
    micro = stage.micro_batch or share
    if share % micro:
        raise RecipeError(
            f"{where}.micro_batch is {micro}, but each of {world} GPUs gets {share} of the {stage.batch} conversations "
            f"of a step; use a divisor of {share}"
        )
    return micro, share // micro


LIVE, PREFETCH = 1_000_000_000, 50_000_000
"""DeepSpeed's own numbers of parameters that ZeRO-3 keeps gathered, and of those that it gathers ahead."""


def gathered_at_once(n_params: int) -> int:
    """How many parameters ZeRO-3 may keep gathered: a twentieth of a model, which DeepSpeed would gather up to a
    billion of, so all of a small one."""
    return min(LIVE, n_params // 20)


def config(
    stage: Stage, where: str, world: int, dtype: torch.dtype, out: Path, n_params: int | None = None
) -> dict[str, Any]:
    """DeepSpeed's configuration of one stage, whose model has ``n_params``, where that is known already.

    Raises:
        RecipeError: the ``deepspeed:`` block sets what the recipe says.
    """
    micro, n_micro = micro_batches(stage, world, where)
    zero: dict[str, Any] = {"stage": stage.zero}
    if stage.zero == 3 and n_params is not None:
        live = gathered_at_once(n_params)
        zero |= {"stage3_max_live_parameters": live, "stage3_max_reuse_distance": live}
        zero["stage3_prefetch_bucket_size"] = min(PREFETCH, live)
    if stage.offload in ("optimizer", "all"):
        # pinned memory is CUDA's: without a GPU there is none to pin for
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if stage.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    ours: dict[str, Any] = {
        "train_batch_size": stage.batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": n_micro,
        "gradient_clipping": stage.clip,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # torch's own AdamW (fused) also where the optimizer is offloaded: nothing has to be compiled on the machine
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,  # never: the log of a training shows its steps itself
        **_monitors(stage, where, out),
    }
    _check(stage.deepspeed, f"{where}.deepspeed", "")
    return _merged(ours, stage.deepspeed)


def _monitors(stage: Stage, where: str, out: Path) -> dict[str, Any]:
    blocks: dict[str, Any] = {}
    for name, block in stage.monitor.items():
        if name not in MONITORS:
            raise RecipeError(f"{where}.monitor.{name} is unknown; known are tensorboard, wandb, csv and comet")
        # DeepSpeed's own name of it; its wandb and comet monitors have no output folder
        key = "csv_monitor" if name == "csv" else name
        files = {} if key in ("wandb", "comet") else {"output_path": str(out / key), "job_name": where.split(".")[-1]}
        blocks[key] = {"enabled": block is not False, **files, **(block if isinstance(block, dict) else {})}
    return blocks


def _check(block: dict[str, Any], where: str, path: str) -> None:
    for key, value in block.items():
        full = f"{path}{key}"
        if full in OURS:
            raise RecipeError(f"{where}.{full} is set by the recipe itself: use `{OURS[full]}` and remove it here")
        if isinstance(value, dict):
            _check(value, where, f"{full}.")


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in theirs.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
