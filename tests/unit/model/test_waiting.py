"""A training step asks its device for nothing: on one that has no numbers it runs from the batch to the gradients."""

from __future__ import annotations

import pytest

from mmllm.model.trainable import set_trainable
from tests.support.assemblies import Row, batch_of, tiny_assembly

MIXED = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,)), Row(3, ("image", "image", 6)), Row(4, (2, "page", 4)))


@pytest.mark.parametrize("rows", [MIXED, MIXED[1:2]], ids=["mixed", "text"])
def test_a_step_never_waits_for_its_device(rows: tuple[Row, ...]) -> None:
    model = tiny_assembly()
    batch = batch_of(model, rows)
    set_trainable(model, {"connectors.image": 1.0, "connectors.lora": 1.0})
    model.train().to("meta")
    there = batch.to("meta")
    assert there.host is batch and there.input_ids.is_meta and not there.host.input_ids.is_meta
    nll, extra, _ = model(there)
    (nll + extra).backward()
    assert nll.is_meta
    gradients = [weight.grad for weight in model.connectors["lora"].parameters()]
    assert gradients and all(one is not None and one.is_meta for one in gradients)
