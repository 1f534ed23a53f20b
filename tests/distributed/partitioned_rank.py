"""One of two ranks that builds a model under ZeRO-3 and trains it: memory while it is built, digests, losses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mmllm.model.build import build
from mmllm.model.trainable import frozen_digests, partitioned_parts
from mmllm.recipe.load import load_recipe
from mmllm.training import distributed
from tests.support import zero_training

ZERO3: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}


def memory(word: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{word}:"))


def main() -> None:
    device = distributed.init_distributed()
    recipe = load_recipe(Path(os.environ["RECIPE"]))
    # once as it is, small: what the first model of a process imports is no part of what a model takes
    build(load_recipe(Path(os.environ["RECIPE"]), [f"llm.path={os.environ['SMALL']}"]), device, ZERO3)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    model = build(recipe, device, ZERO3)
    taken = memory("VmHWM") - before
    found = {
        "parts": partitioned_parts(model),
        "peaks": distributed.all_reduce_sum([taken * (rank == distributed.rank()) for rank in range(2)], device),
        "digest": frozen_digests(model, ["llm"])["llm"],
        "n_params": sum(int(p.ds_numel) for p in model.llm.parameters()),
    }
    torch.distributed.barrier()
    zero_training.end(found)


if __name__ == "__main__":
    main()
