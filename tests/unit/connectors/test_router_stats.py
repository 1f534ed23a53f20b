"""What routers count: by data key and modality, each token once, each pass for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmllm.connectors.llm_adapters.moe_lora.usage import used
from mmllm.model.loss import label_nll
from mmllm.model.metrics import plain
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.types import Batch
from tests.support.assemblies import batch_of
from tests.support.experts import FORMS, LLAVA_MOLE, with_moe
from tests.support.inside import ROWS


@pytest.mark.parametrize("one", FORMS)
def test_passes_may_be_open_side_by_side(one: str) -> None:
    """Two passes, then their losses in the other order, blocks recomputed: each as if it had been alone."""
    found = []
    for together in (False, True):
        model, moe = with_moe(FORMS[one])
        set_trainable(model, {"connectors.moe": 1e-3})
        model.train().llm.gradient_checkpointing(True)
        batches = [batch_of(model, rows) for rows in (ROWS[:2], ROWS[2:])]
        opened = [model.hidden(batch) for batch in batches] if together else []
        gradients = []
        for number in (1, 0):
            ctx, states = opened[number] if together else model.hidden(batches[number])
            loss, extra = label_nll(model.llm, states, batches[number].labels, ctx), moe.extra_loss(ctx)
            (loss if extra is None else loss + extra).backward()
            gradients.append([p.grad.clone() for p in moe.parameters() if p.grad is not None])
        found.append((gradients, [usage(model, batch) for batch in batches]))
    assert found[0][1] == found[1][1]
    for alone, beside in zip(*(gradients for gradients, _ in found), strict=True):
        assert len(alone) == len(beside) > 0
        assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


@torch.no_grad()
def usage(model: MultimodalLM, batch: Batch) -> dict[tuple[str, str], Any]:
    """(data key, modality) -> tokens of each expert, block by block, of what has any; of one pass."""
    total = plain(model.metrics(model.hidden(batch)[0]))["moe"]
    return {(dataset, modality): table for dataset, modality, table in used(total)}


@torch.no_grad()
def test_usage_by_source_and_modality() -> None:
    """Every token of every block once, none twice, pads never; each pass counts for itself."""
    model, moe = with_moe(LLAVA_MOLE)
    batch = batch_of(model, ROWS)
    found = usage(model, batch)
    assert {dataset for dataset, _ in found} == {"captions", "text", "instruct"}
    for source, modality, tokens in (("captions", "text", 20), ("captions", "image", 12), ("instruct", "image", 4)):
        assert [sum(block) for block in found[source, modality]] == [tokens] * 4
    assert ("text", "image") not in found
    assert moe.metrics(model.embed(batch)[0]) is None  # the LLM has not run
    assert usage(model, batch) == found


def test_only_active_positions_count() -> None:
    model, moe = with_moe(LLAVA_MOLE)
    moe.when = ("image",)
    assert {dataset for dataset, _ in usage(model, batch_of(model, ROWS))} == {"captions", "instruct"}
