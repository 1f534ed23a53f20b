"""One of two ranks: trains the connectors of clips with ZeRO 0 and 3, clips of different lengths; prints one JSON line.

``test_temporal_zero`` starts it twice.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from mmllm.assembly import parts
from mmllm.assembly.model import Assembly
from mmllm.connectors.connector import Connector
from mmllm.connectors.iva import IvaConnector
from mmllm.connectors.temporal_aligner import TemporalAlignerConnector
from mmllm.connectors.temporal_conv import TemporalConvConnector
from mmllm.stages.engine import Engine
from mmllm.types import Sample
from tests.clips import assembly_of, clip, packed, talk

STAGES = {"0": (0, False), "3 recomputed": (3, True)}
"""Name -> (ZeRO stage, gradient checkpointing)."""
CASES: dict[str, tuple[type[Connector], dict[str, Any]]] = {
    "iva": (
        IvaConnector,
        {"heads": 2, "head_dim": 4, "width": 12, "every": 2, "top_k": 2, "selector_width": 8},
    ),
    "temporal_aligner": (TemporalAlignerConnector, {"width": 12, "heads": 2, "semantic_width": 8}),
    "temporal_conv": (TemporalConvConnector, {"depth": 1, "width": 16}),
}
ONE = talk("What is it? <video>", "red square", clips=[clip(4, 1)])
TWO = talk("<video> Is it <video> too?", "two green", clips=[clip(3, 2), clip(2, 4)])
TEXT = talk("How many?", "there are 3")
STEPS: list[tuple[tuple[Sample, ...], tuple[Sample, ...]]] = [
    ((ONE, TEXT), (TEXT,)),
    ((TEXT,), (TWO,)),
    ((TWO, ONE), (ONE,)),
]
"""Per step the conversations of rank 0 and of rank 1: clips against text, one length against several."""


def losses(assembly: Assembly, stage: int) -> list[float]:
    """Loss per label over both ranks before each step, and after the last."""
    learning = parts.learning(assembly, "connectors.video")
    groups = [{"params": list(learning.values()), "lr": 1e-2, "peak": 1e-2, "part": "connectors.video"}]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    engine = Engine(assembly, groups, (0.9, 0.95), config)
    found = []
    for samples in [*STEPS, STEPS[0]]:
        batch = packed(assembly, samples[dist.get_rank()])
        n_labels = torch.tensor(float(batch.n_labels))
        dist.all_reduce(n_labels)
        nll, extra = engine(batch)
        engine.learn(nll * dist.get_world_size() / n_labels + extra)
        total = nll.detach().clone()
        dist.all_reduce(total)
        found.append(float(total / n_labels))
    engine.close()
    return found


def main() -> None:
    """All cases, one after another."""
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    found: dict[str, dict[str, list[float]]] = {}
    for name, (connector, words) in CASES.items():
        for stage, (number, recompute) in STAGES.items():
            assembly = assembly_of(connector, "qwen2", shaken=False, **words)
            parts.set_trainable(assembly, {"connectors.video": 1e-2})
            assembly.train()
            assembly.llm.gradient_checkpointing(recompute)
            found.setdefault(name, {})[stage] = losses(assembly, number)
    if os.environ["RANK"] == "0":
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
