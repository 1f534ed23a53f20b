"""``when:`` of a connector inside the LLM: it works in conversations with that media and nowhere else (invariant 2)."""

from __future__ import annotations

import pytest
import torch

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.forward import per_row
from tests.support.parts import FAMILIES

ROWS = (Row(1, (4, "image", 3)), Row(2, (9,)), Row(3, (2, "page", 6)), Row(4, (7,)))
WITH_IMAGE, WITH_PAGE = {0}, {2}


def routed(family: str, when: tuple[str, ...] | None) -> MultimodalLM:
    """A tiny model whose LoRA has non-zero weights and this ``when``."""
    model = tiny_assembly(family)
    model.connectors["lora"].when = when  # type: ignore[assignment]
    return model


@torch.no_grad()
def rows_of(model: MultimodalLM) -> list[torch.Tensor]:
    """float[S_b, V] of each conversation in the mixed packed row."""
    batch = batch_of(model, ROWS)
    return per_row(model, batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rest_of_a_mixed_batch_is_bit_identical_to_the_llm_without_it(family: str) -> None:
    """Only the conversation with the named media changes."""
    model = routed(family, ("image",))
    with_lora = rows_of(model)
    handle = model.handles["lora"]
    assert handle is not None
    handle.remove()
    for number, (changed, bare) in enumerate(zip(with_lora, rows_of(model), strict=True)):
        assert torch.equal(changed, bare) == (number not in WITH_IMAGE)


def test_any_of_several_media_opens_it_and_without_when_it_always_works() -> None:
    """``when`` lists alternatives."""
    both, always = rows_of(routed("llama", ("image", "page"))), rows_of(routed("llama", None))
    for number, (some, every) in enumerate(zip(both, always, strict=True)):
        assert torch.allclose(some, every, atol=1e-6) == (number in WITH_IMAGE | WITH_PAGE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_decoding_follows_the_same_route_also_when_rows_finish_and_decodings_take_turns(family: str) -> None:
    """Logits of each row's end equal the packed pass; dropping finished rows keeps the others' route."""
    model = routed(family, ("image",))
    expected = [row[-1] for row in rows_of(model)]
    state = model.prefill(batch_of(model, ROWS))
    torch.testing.assert_close(state.logits, torch.stack(expected), atol=1e-5, rtol=1e-5)
    alone = [model.prefill(batch_of(model, (row,))) for row in ROWS]
    state = model.decode(model.select(state, torch.tensor([0, 1])), torch.tensor([5, 6]))
    for number, one in enumerate(alone[:2]):
        one = model.decode(one, torch.tensor([5 + number]))
        torch.testing.assert_close(one.logits[0], state.logits[number], atol=1e-5, rtol=1e-5)


def test_gradients_come_from_routed_conversations_only_also_when_blocks_are_recomputed() -> None:
    """A batch of text alone gives LoRA zero gradients, not none: ranks still take part together."""
    model = routed("llama", ("image",))
    trainable.set_trainable(model, {"connectors.lora": 1e-2})
    found = []
    for recompute in (False, True):
        model.llm.gradient_checkpointing(recompute)
        model.zero_grad()
        model(batch_of(model, ROWS))[0].backward()
        found.append([p.grad.clone() for p in model.connectors["lora"].parameters() if p.grad is not None])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))
    assert any(gradient.abs().sum() > 0 for gradient in found[0])
    model.zero_grad()
    model(batch_of(model, (ROWS[1], ROWS[3])))[0].backward()
    gradients = [p.grad for p in model.connectors["lora"].parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
