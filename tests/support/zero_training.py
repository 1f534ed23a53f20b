"""Trains a model on one of two ranks under a ZeRO stage: what the ``*_rank`` modules of the tests share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.training.engine import Engine
from mmllm.types import Batch


def config(stage: int, persist: int | None = None) -> dict[str, Any]:
    """DeepSpeed's configuration of a ZeRO stage, one micro-batch a step.

    ``persist``: ZeRO-3 keeps weights of fewer elements whole, by itself those below 100,000, as all tiny ones are; a
    rank that calls a part more often than another then hangs in large models alone.
    """
    small = {} if persist is None else {"stage3_param_persistence_threshold": persist}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, **small},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def losses(
    forward: Callable[[Batch], tuple[Tensor, Tensor, Any]], learn: Callable[[Tensor], object], batches: Iterable[Batch]
) -> list[float]:
    """Loss per label over both ranks before each of the steps; ``batches``: this rank's of each step."""
    found = []
    for batch in batches:
        n_labels = torch.tensor(float(batch.n_labels))
        dist.all_reduce(n_labels)
        nll, extra, _ = forward(batch)
        learn(nll * dist.get_world_size() / n_labels + extra)
        total = nll.detach().clone()
        dist.all_reduce(total)
        found.append(float(total / n_labels))
    return found


def learned(
    model: MultimodalLM, names: Sequence[str], stage: int, batches: Iterable[Batch], persist: int | None = None
) -> list[float]:
    """``losses`` with the engine of the stages, the parts of these names being what learns; ``persist``: as there."""
    groups = [
        {"params": list(trainable.learning(model, name).values()), "lr": 1e-2, "peak": 1e-2, "part": name}
        for name in names
    ]
    engine = Engine(model, groups, (0.9, 0.95), config(stage, persist))
    found = losses(engine, engine.backward_and_step, batches)
    engine.close()
    return found


def trained(model: MultimodalLM, stage: int, batches: Iterable[Batch]) -> list[float]:
    """``losses`` with DeepSpeed's engine alone, everything that requires a gradient learning."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config(stage))[0]

    def learn(loss: Tensor) -> None:
        engine.backward(loss)
        engine.step()

    return losses(engine, learn, batches)


def end(found: object) -> None:
    """Rank 0 prints what was found as one JSON line; both ranks leave."""
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()
