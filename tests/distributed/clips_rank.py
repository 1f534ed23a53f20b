"""One of two ranks: trains the connectors of clips with ZeRO 0 and 3, clips of different lengths; prints one JSON line.

``test_clips`` runs it on both.
"""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from mmllm.connectors.base import Connector
from mmllm.connectors.deep_fusion.iva.iva import IvaConnector
from mmllm.connectors.projectors.temporal_aligner.temporal_aligner import TemporalAlignerConnector
from mmllm.connectors.projectors.temporal_conv import TemporalConvConnector
from mmllm.model import trainable
from mmllm.types import Sample
from tests.support.clips import clip, clip_assembly, clip_talk
from tests.support.talks import packed
from tests.support.zero_training import end, learned

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
ONE = clip_talk("What is it? <video>", "red square", clips=[clip(4, 1)])
TWO = clip_talk("<video> Is it <video> too?", "two green", clips=[clip(3, 2), clip(2, 4)])
TEXT = clip_talk("How many?", "there are 3")
STEPS: list[tuple[tuple[Sample, ...], tuple[Sample, ...]]] = [
    ((ONE, TEXT), (TEXT,)),
    ((TEXT,), (TWO,)),
    ((TWO, ONE), (ONE,)),
]
"""Per step the conversations of rank 0 and of rank 1: clips against text, one length against several."""


def main() -> None:
    """All cases, one after another."""
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    found: dict[str, dict[str, list[float]]] = {}
    for name, (connector, words) in CASES.items():
        for stage, (number, recompute) in STAGES.items():
            model = clip_assembly(connector, "qwen2", shaken=False, **words)
            trainable.set_trainable(model, {"connectors.video": 1e-2})
            model.train()
            model.llm.gradient_checkpointing(recompute)
            batches = (packed(model, step[dist.get_rank()]) for step in (*STEPS, STEPS[0]))
            found.setdefault(name, {})[stage] = learned(model, ["connectors.video"], number, batches)
    end(found)


if __name__ == "__main__":
    main()
