"""Stages before they run: schedule and groups, accumulation, DeepSpeed's settings, the run folder, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmllm.errors import RecipeError
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Stage
from mmllm.training.deepspeed_config import config, micro_batches
from mmllm.training.engine import optimizer_groups
from mmllm.training.run_folder import Metrics, compare_recipe, write_recipe
from mmllm.training.schedule import lr_scale
from tests.support.training import tiny_recipe


def stage(**words: Any) -> Stage:
    """A stage with these words."""
    return Stage(**{"train": {"connectors.image": 1e-3}, "data": {"chat": 1.0}, "steps": 10, "batch": 8, **words})


# ---- schedule, groups, DeepSpeed's configuration


def test_warm_up_rises_to_the_peak_and_each_schedule_ends_as_it_should() -> None:
    assert [lr_scale(step, 100, 0.04, "cosine") for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_scale(52, 100, 0.04, "cosine") == pytest.approx(0.5)
    assert lr_scale(52, 100, 0.04, "linear") == pytest.approx(0.5)
    assert 0 < lr_scale(99, 100, 0.04, "cosine") < 1e-3 < lr_scale(99, 100, 0.04, "linear") < 0.02
    assert {lr_scale(step, 100, 0.0, "constant") for step in range(100)} == {1.0}
    falling = [lr_scale(step, 100, 0.04, "cosine") for step in range(4, 100)]
    assert falling == sorted(falling, reverse=True) and lr_scale(0, 1, 1.0, "cosine") == 1.0


def test_norms_and_biases_have_no_weight_decay_and_every_part_its_rate() -> None:
    block = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    block[0].weight.requires_grad_(True)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = optimizer_groups({"connectors.a": (1e-3, block.parameters()), "llm": (1e-5, frozen.parameters())}, 0.1)
    found = [(group["part"], group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
    assert found == [("connectors.a", 1e-3, 0.1, 1), ("connectors.a", 1e-3, 0.0, 3)]


def test_zero_3_gathers_little_of_a_model_at_once(tmp_path: Path) -> None:
    """DeepSpeed's own numbers are larger than many models, which each rank would then hold whole."""
    words = ("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size")

    def found(n_params: int | None, **more: Any) -> list[int | None]:
        made = config(stage(**more), "stages.a", 2, torch.float32, tmp_path, n_params)["zero_optimization"]
        return [made.get(word) for word in words]

    assert found(86_000_000, zero=3) == [4_300_000, 4_300_000, 4_300_000]
    assert found(7_000_000_000, zero=3) == [350_000_000, 350_000_000, 50_000_000]
    assert found(70_000_000_000, zero=3) == [1_000_000_000, 1_000_000_000, 50_000_000]
    assert found(86_000_000, zero=2) == found(None, zero=3) == [None] * 3
    said = {"zero_optimization": {"stage3_max_live_parameters": 7}}
    assert found(86_000_000, zero=3, deepspeed=said) == [7, 4_300_000, 4_300_000]


def test_accumulation_is_computed() -> None:
    assert micro_batches(stage(), 2, "stages.a") == (4, 1)
    assert micro_batches(stage(micro_batch=2), 2, "stages.a") == (2, 2)
    with pytest.raises(RecipeError, match=r"stages.a.batch is 8, which 3 GPUs cannot share evenly"):
        micro_batches(stage(), 3, "stages.a")
    with pytest.raises(RecipeError, match=r"stages.a.micro_batch is 8, but each of 2 GPUs gets 4 .* a divisor of 4"):
        micro_batches(stage(micro_batch=8), 2, "stages.a")


def test_the_deepspeed_block_goes_over_ours(tmp_path: Path) -> None:
    block = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    made = config(stage(zero=3, offload="all", deepspeed=block), "stages.a", 2, torch.bfloat16, tmp_path)
    assert made["zero_optimization"]["reduce_bucket_size"] == 1000 and made["zero_optimization"]["stage"] == 3
    assert made["zero_optimization"]["offload_param"]["device"] == "cpu" and made["wall_clock_breakdown"]
    assert made["train_batch_size"] == 8 and made["gradient_clipping"] == 1.0 and made["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"train_batch_size": 4}, r"stages.a.deepspeed.train_batch_size is set by the recipe itself: use `batch`"),
        ({"zero_optimization": {"stage": 1}}, r"deepspeed.zero_optimization.stage is set .* use `zero`"),
        ({"optimizer": {"type": "Lion"}}, r"deepspeed.optimizer is set"),
        ({"tensorboard": {"enabled": True}}, r"deepspeed.tensorboard is set .* use `monitor`"),
    ],
)
def test_what_the_recipe_says_cannot_be_said_twice(tmp_path: Path, block: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        config(stage(deepspeed=block), "stages.a", 1, torch.float32, tmp_path)


def test_monitors_are_deepspeeds(tmp_path: Path) -> None:
    made = config(stage(monitor={"csv": True, "wandb": {"project": "p"}}), "stages.a", 1, torch.float32, tmp_path)
    assert made["csv_monitor"] == {"enabled": True, "output_path": str(tmp_path / "csv_monitor"), "job_name": "a"}
    assert made["wandb"] == {"enabled": True, "project": "p"}
    with pytest.raises(RecipeError, match=r"monitor.paper is unknown; known are tensorboard, wandb, csv and comet"):
        config(stage(monitor={"paper": True}), "stages.a", 1, torch.float32, tmp_path)


# ---- the run folder


def test_another_recipe_in_the_same_folder_is_an_error_that_names_the_keys(tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe(tmp_path))
    out = tmp_path / "run"
    out.mkdir()
    write_recipe(recipe, out)
    other = load_recipe(tmp_path / "recipe.yaml", ["stages.align.batch=8", "seed=1"])
    with pytest.raises(RecipeError, match=r"seed was 0, is 1; stages\.align\.batch was 4, is 8; .* another --out"):
        compare_recipe(other, out, "align")  # with a checkpoint of that stage
    later = load_recipe(tmp_path / "recipe.yaml", ["stages.instruct.batch=8", "eval.max_new_tokens=3"])
    compare_recipe(later, out, "align")
    compare_recipe(other, out)


def test_metrics_are_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    lines = Metrics(tmp_path)
    for name, step in (("align", 1), ("align", 2), ("instruct", 1), ("instruct", 2)):
        lines.write({"stage": name, "step": step})
    with lines.path.open("a") as file:
        file.write('{"stage": "instr')
    lines.rewind(["align"], "instruct", 1)
    rows = [json.loads(line) for line in lines.path.read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("align", 1), ("align", 2), ("instruct", 1)]
