"""One of two ranks: trains a tiny model under several ZeRO stages on rows that differ in kind between the ranks.

``test_invariants`` runs it on both; it prints one JSON line, the losses of each case.
"""

from __future__ import annotations

from dataclasses import replace

import deepspeed
import torch
import torch.distributed as dist

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.zero_training import end, trained

CASES = {"zero 0": (0, False), "zero 2": (2, False), "zero 3, recomputed": (3, True)}
"""Name -> (ZeRO stage, gradient checkpointing)."""
EVERYTHING = {"connectors.image": 1e-2, "connectors.page": 1e-2, "connectors.lora": 1e-2, "llm.tokens": 1e-2}
TOKENS = ["<a>", "<b>", "<c>"]
BOTH, TEXT, ONE = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,))), (Row(5, (8,)),), (Row(3, ("image", "image", 6)),)
STEPS: list[tuple[tuple[Row, ...], tuple[Row, ...]]] = [
    (BOTH, TEXT),
    (ONE, ()),
    ((Row(8, (5,), 0),), (Row(4, (2, "page", 4)),)),
    (BOTH, TEXT),
]
"""Per step the rows of rank 0 and of rank 1: media against text, one key against no sample, no label against one."""


def _with_new(model: MultimodalLM, rows: tuple[Row, ...]) -> Batch:
    """The rows packed, some of their tokens new ones."""
    batch = batch_of(model, rows)
    assert model.llm.tokens is not None
    new = (batch.input_ids % 3 == 0) & (batch.media_ids < 0)
    ids = torch.where(new, model.llm.tokens.first + batch.input_ids // 3 % len(TOKENS), batch.input_ids)
    return replace(batch, input_ids=ids, labels=torch.where(batch.labels != IGNORE_INDEX, ids, IGNORE_INDEX))


def main() -> None:
    """All cases, one after another."""
    torch.set_num_threads(1)
    assemblies = {}
    for name, (_, recompute) in CASES.items():  # before ranks exist: only rank 0 would write the tiny folders
        assemblies[name] = tiny_assembly().train()
        assemblies[name].llm.add_tokens(TOKENS)
        trainable.set_trainable(assemblies[name], EVERYTHING)
        assemblies[name].llm.gradient_checkpointing(recompute)
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    batches = {name: [_with_new(one, rows[rank]) for rows in STEPS] for name, one in assemblies.items()}
    found = {name: trained(one, CASES[name][0], batches[name]) for name, one in assemblies.items()}
    end(found)


if __name__ == "__main__":
    main()
