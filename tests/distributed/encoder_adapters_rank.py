"""One of two ranks: trains adapters inside encoders under several ZeRO stages; prints one JSON line of losses.

``test_encoder_adapters`` runs it on both. By hand, some of them: ``python -m
tests.distributed.encoder_adapters_rank ted_adapter`` on each of two ranks (RANK, WORLD_SIZE=2,
MASTER_ADDR, MASTER_PORT set).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import deepspeed
import torch
import torch.distributed as dist

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.training.engine import Engine
from tests.support.adapted import ADAPTERS
from tests.support.adapted_assembly import BOTH, PAGE, PICTURE, TEXT, adapted_assembly
from tests.support.assemblies import Row, batch_of

STAGES = {kind: (0, 2, 3) if kind == "conformer_adapter" else (0, 3) for kind in ADAPTERS}
"""ZeRO 2 once: it partitions no weights, so what sits inside an encoder is nothing special to it."""
STEPS: list[tuple[tuple[Row, ...], tuple[Row, ...]]] = [
    ((BOTH, TEXT), (TEXT,)),
    ((), (PICTURE,)),
    ((PAGE,), (PICTURE,)),
]
"""Per step the rows of rank 0 and of rank 1: media against none, nothing at all, one encoder's against another's."""


def losses(model: MultimodalLM, zero: int) -> list[float]:
    """Loss per label over both ranks before each step, and after the last; then each learned buffer's sum."""
    rank = dist.get_rank()
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "lr": 1e-2, "peak": 1e-2, "part": "connectors.inner"}]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    engine = Engine(model, groups, (0.9, 0.95), config)
    found, frozen = [], engine.frozen_digest()
    for rows in [*STEPS, STEPS[0]]:
        batch = batch_of(model, rows[rank])
        n_labels = torch.tensor(float(batch.n_labels))
        dist.all_reduce(n_labels)
        nll, extra, _ = engine(batch)
        engine.backward_and_step(nll * dist.get_world_size() / n_labels + extra)
        total = nll.detach().clone()
        dist.all_reduce(total)
        found.append(float(total / n_labels))
    assert engine.frozen_digest() == frozen, "running statistics of what learns are not frozen, all else is"
    for buffer in model.connectors["inner"].buffers():
        both = torch.stack([buffer.sum(), -buffer.sum()])
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        assert float(both.sum()) == 0, "the ranks have different statistics"
        found.append(float(buffer.sum()))
    engine.close()
    return found


def main(arguments: Sequence[str] = ()) -> None:
    """The adapters named, or all, one after another."""
    chosen = arguments or ADAPTERS
    torch.set_num_threads(1)
    adapted_assembly(None)  # before ranks exist: only rank 0 would write the tiny encoder's folder
    made = {(kind, zero): adapted_assembly(kind) for kind in chosen for zero in STAGES[kind]}
    deepspeed.init_distributed("gloo")
    found: dict[str, list[list[float]]] = {kind: [] for kind in chosen}
    for (kind, zero), model in made.items():
        inner = "connectors.inner.adapters" if kind == "audio_adapter_fusion" else "connectors.inner"
        trainable.set_trainable(model, {inner: 1e-2})
        model.train()
        found[kind].append(losses(model, zero))
    if os.environ["RANK"] == "0":
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
