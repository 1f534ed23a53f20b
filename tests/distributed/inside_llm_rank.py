"""One of two ranks: trains connectors inside the LLM under several ZeRO stages; prints one JSON line of losses.

``test_inside_llm`` runs it on both. By hand, the whole matrix: ``python -m tests.distributed.inside_llm_rank all``
on each of two ranks (RANK, WORLD_SIZE=2, MASTER_ADDR, MASTER_PORT set).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import deepspeed
import torch
import torch.distributed as dist

from mmllm.model import trainable
from tests.support.assemblies import Row, batch_of
from tests.support.inside import VARIANTS, inside, key_of
from tests.support.parts import FAMILIES
from tests.support.zero_training import end, learned

STAGES = {"0": (0, False), "2": (2, False), "3 recomputed": (3, True)}
"""Name -> (ZeRO stage, gradient checkpointing)."""
PICTURE, TEXT = Row(1, (4, "image", 5), source="captions"), Row(2, (9,), source="text")
STEPS: list[tuple[tuple[Row, ...], tuple[Row, ...]]] = [
    ((PICTURE, TEXT), (TEXT,)),
    ((), (PICTURE,)),
    ((PICTURE,), (TEXT,)),
]
"""Per step the rows of rank 0 and of rank 1: media against text, nothing against media."""


def cases(all_of_them: bool) -> list[tuple[str, str]]:
    """(variant, family): the whole matrix, or each variant with one family, going round."""
    families = list(FAMILIES)
    if all_of_them:
        return [(variant, family) for variant in VARIANTS for family in families]
    return [(variant, families[number % len(families)]) for number, variant in enumerate(VARIANTS)]


def main(arguments: Sequence[str] = ()) -> None:
    """All cases, one after another."""
    torch.set_num_threads(1)
    chosen = cases("all" in arguments)
    inside("lora")  # before ranks exist: only rank 0 would write the tiny encoder's folder
    deepspeed.init_distributed("gloo")
    found: dict[str, dict[str, list[float]]] = {}
    for place, (variant, family) in enumerate(chosen):
        rows = found.setdefault(f"{variant} {family}", {})
        for stage, (number, recompute) in STAGES.items():
            # it splits gradients alone, whatever they are of: some are enough
            if stage == "2" and place % 4 and "all" not in arguments:
                continue
            model = inside(variant, family)
            name = f"connectors.{key_of(variant)}"
            trainable.set_trainable(model, {name: 1e-2})
            model.train()
            model.llm.gradient_checkpointing(recompute)
            batches = (batch_of(model, step[dist.get_rank()]) for step in (*STEPS, STEPS[0]))
            rows[stage] = learned(model, [name], number, batches)
    end(found)


if __name__ == "__main__":
    main(sys.argv[1:])
