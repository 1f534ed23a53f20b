"""`mmllm plan`: from what was typed to the plans in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmllm.errors import MmllmError
from mmllm.planning.plan import Machine, plans
from mmllm.planning.rate import measured_rate
from mmllm.planning.terminal import lines
from mmllm.recipe.load import load_recipe
from mmllm.training.distributed import resolved


def run(
    path: Path, overrides: Sequence[str], stage: str | None, gpus: int, memory: float | None, flops: float | None
) -> None:
    """Print the plan of a recipe file's stages.

    Args:
        path: of the recipe.
        overrides: ``path=value``.
        stage: only this one.
        gpus: ranks.
        memory: of one GPU in GiB; None: for this machine's CPU.
        flops: floating point operations a second that one GPU sustains; None: measured on a CPU, unknown for GPUs.

    Raises:
        MmllmError: the recipe is wrong, its data are not there, or a part cannot be laid out without weights.
    """
    for word, value in (("--gpus", gpus), ("--gpu-memory", memory), ("--flops", flops)):
        if value is not None and value <= 0:
            raise MmllmError(f"{word} is {value:g}; give more than 0")
    recipe = load_recipe(path, overrides)
    if not recipe.stages:
        raise MmllmError(f"{path}: the recipe has no stages: nothing to plan")
    if memory is not None and recipe.llm.dtype == "auto":
        # what a GPU that has it trains with, whatever this machine is
        recipe = recipe.model_copy(update={"llm": recipe.llm.model_copy(update={"dtype": "bfloat16"})})
    recipe = resolved(recipe)
    rate = flops if flops is not None else measured_rate() if memory is None else None
    machine = Machine(gpus, None if memory is None else int(memory * 2**30), rate)
    lines(plans(recipe, stage, machine), Console(highlight=False))
