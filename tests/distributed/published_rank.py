"""One of two ranks: trains published models under several ZeRO stages, a picture against text; prints JSON of losses.

``test_published`` runs it on both.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from mmllm.model import trainable
from mmllm.types import Sample
from tests.support.published import key_of, packed, said, taken
from tests.support.zero_training import end, learned

CASES = (
    "LLaVA-NeXT", "Qwen3-VL", "Idefics2", "Gemma 3", "PaliGemma 2", "InstructBLIP, Llama", "Llama 3.2 Vision",
)  # fmt: skip
"""Of the published models those whose parts no other of them has."""
STAGES = {"0": (0, False), "2": (2, False), "3 recomputed": (3, True)}
"""Name -> (ZeRO stage, gradient checkpointing)."""


def steps(key: str) -> list[tuple[list[Sample], list[Sample]]]:
    """Per step the conversations of rank 0 and of rank 1: an item against text, nothing against two."""
    one, two = said(key, "What?", "A sign.", 0), said(key, "Both?", "No.", 1, 2)
    text = said(key, "Only text.", "Yes.")
    return [([one, text], [text]), ([], [two]), ([one], [two])]


def main() -> None:
    """All models, one after another."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:  # before ranks exist: only rank 0 would write the tiny folders
        # ZeRO 2 splits gradients alone, whatever they are of: some are enough
        models = {
            (case, stage): taken(case, Path(place) / str(number))
            for number, case in enumerate(CASES)
            for stage in STAGES
            if stage != "2" or number % 4 == 0
        }
    deepspeed.init_distributed("gloo")
    found: dict[str, dict[str, list[float]]] = {}
    for (case, stage), model in models.items():
        zero, recompute = STAGES[stage]
        name = f"connectors.{key_of(model)}"
        rows = [one[dist.get_rank()] for one in steps(key_of(model))]
        trainable.set_trainable(model, {name: 1e-2})
        model.train().llm.gradient_checkpointing(recompute)
        batches = (packed(model, samples) for samples in (*rows, rows[0]))
        found.setdefault(case, {})[stage] = learned(model, [name], zero, batches, persist=0)
    end(found)


if __name__ == "__main__":
    main()
