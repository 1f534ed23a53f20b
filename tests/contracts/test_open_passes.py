"""Two passes or decodings of one model may be open at once, whatever works inside its LLM: each has its own context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.assemblies import Row, batch_of
from tests.support.inside import VARIANTS, connector_of, inside
from tests.support.parts import randomise

ROWS_A = (Row(4, (4, "image", 6), source="captions"), Row(5, (9,), source="instruct"))
ROWS_B = (Row(6, (7,), source="captions"), Row(7, ("image", 3, "image", 8), source="instruct"), Row(8, (5, "image", 4)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("recompute", [False, True])
def test_two_passes_may_be_open_at_once(variant: str, recompute: bool) -> None:
    """Backward passes in the order of the forward passes or the other way round, blocks recomputed or not: the same
    gradients as one after the other."""
    model = inside(variant)
    randomise(connector_of(model, variant))
    learning = [p.requires_grad_() for p in connector_of(model, variant).parameters()]
    model.llm.gradient_checkpointing(recompute)
    batches = [batch_of(model, rows) for rows in (ROWS_A, ROWS_B)]

    def gradients(order: list[int], together: bool) -> list[list[torch.Tensor | None]]:
        found: dict[int, list[torch.Tensor | None]] = {}
        losses = [model(batch)[0] for batch in batches] if together else []
        for number in order:
            loss = losses[number] if together else model(batches[number])[0]
            grads = torch.autograd.grad(loss, learning, allow_unused=True)
            found[number] = list(grads)
        return [found[number] for number in range(len(batches))]

    expected = gradients([0, 1], together=False)
    for order in ([0, 1], [1, 0]):
        for one, other in zip(expected, gradients(order, together=True), strict=True):
            for a, b in zip(one, other, strict=True):
                assert (a is None) == (b is None)
                assert a is None or b is None or torch.equal(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_decodings_take_turns(variant: str) -> None:
    """Two decodings in one model, step by step in turn, give what each gives alone; one loses a row on the way."""
    model = inside(variant)
    randomise(connector_of(model, variant))
    batches = [batch_of(model, rows) for rows in (ROWS_A, ROWS_B)]

    def steps(number: int) -> Iterator[torch.Tensor]:
        state = model.prefill(batches[number])
        for step in range(4):
            yield state.logits
            if step == 1:
                state = model.select(state, torch.arange(1, len(state.logits)))
            state = model.decode(state, state.logits.argmax(-1))

    alone = [list(steps(number)) for number in range(2)]
    in_turn = list(zip(steps(0), steps(1), strict=True))
    for number in range(2):
        for one, other in zip(alone[number], in_turn, strict=True):
            assert torch.equal(one, other[number])
