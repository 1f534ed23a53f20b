"""What must always hold of the model: frozen is frozen, text-only identity, gradients, packing, caching, state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.types import Batch
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.forward import decoded, logits

MIXED = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,)), Row(3, ("image", "image", 6)), Row(4, (2, "page", 4)))
TEXT = (Row(5, (8,)), Row(6, (12,)), Row(7, (8,)))
EVERYTHING = {"connectors.image": 1e-2, "connectors.page": 1e-2, "connectors.lora": 1e-2}


def gradients(model: MultimodalLM, batches: Sequence[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Summed loss of the batches and the gradients of everything that learns."""
    model.zero_grad()
    total = torch.stack([model(batch)[0] for batch in batches]).sum()
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_1_frozen_is_frozen() -> None:
    """After training steps with decay the digests are equal; frozen tensors have no gradient and no optimizer state."""
    model = tiny_assembly()
    trainable.set_trainable(model, {"connectors.image": 1e-2, "connectors.lora": 1e-2})
    before = trainable.frozen_digests(model)
    idle = {name: tensor.clone() for name, tensor in model.connectors["page"].state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    model.train()
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(model(batch_of(model, MIXED))[0])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert trainable.frozen_digests(model) == before
    assert all(torch.equal(tensor, idle[name]) for name, tensor in model.connectors["page"].state_dict().items())
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)
    assert len(frozen) + len(learning) == len(list(model.parameters()))
    assert set(optimizer.state) == set(learning)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@torch.no_grad()
def test_2_text_only_logits_are_those_of_the_bare_llm(family: str) -> None:
    """Connectors outside the LLM leave text alone bit for bit, also in train mode and beside samples with media."""
    model = tiny_assembly(family, lora=False)
    bare = MultimodalLM(model.llm, {}, {}, {})
    text = batch_of(model, TEXT)
    expected = logits(bare, text)
    assert torch.equal(logits(model, text), expected)
    trainable.set_trainable(model, {"connectors.image": 1.0})
    assert torch.equal(logits(model.train(), text), expected)
    mixed = logits(model, batch_of(model, (*MIXED, *TEXT)))
    torch.testing.assert_close(mixed[-len(expected) :], expected, atol=1e-5, rtol=1e-5)


def test_3_everything_that_learns_has_a_gradient_by_step_2() -> None:
    """LoRA's first factor gets its first gradient when the second is no longer zero."""
    model = tiny_assembly()
    for layer in model.connectors["lora"].layers.values():  # type: ignore[union-attr]
        torch.nn.init.zeros_(layer.b.weight)
    trainable.set_trainable(model, EVERYTHING)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        _, found = gradients(model, [batch_of(model, MIXED)])
        optimizer.step()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, gradient in found.items() if gradient.abs().sum() > 0} == names


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "opt", "smollm3"])
@torch.no_grad()
def test_4_cached_left_padded_decoding_equals_the_full_forward(family: str) -> None:
    """With media in the prompt and LoRA's weights non-zero, for each row of a padded batch, whatever the padding."""
    model = tiny_assembly(family)
    llm, batch = model.llm, batch_of(model, MIXED)
    expected, embeds = logits(model, batch), model.embed(batch)[1]
    bounds = batch.cu_seqlens.tolist()
    rows = [embeds[start:end] for start, end in pairwise(bounds)]
    longest, steps = max(map(len, rows)) + 2, 4
    padded = torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
    positions, cache = mask.cumsum(-1) - 1, llm.new_cache()
    spans = [(0, longest - steps), *((n, n + 1) for n in range(longest - steps, longest))]
    for start, end in spans:
        ids = torch.zeros(len(rows), end - start, dtype=torch.int64)
        new = padded[:, start:end]
        out = decoded(llm, ids, mask[:, :end], positions[:, start:end], cache, new)
        for row, last in enumerate(bounds[1:]):
            torch.testing.assert_close(out[row], expected[last - longest + end - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3"])
def test_5_and_12_packed_equals_unpacked(family: str) -> None:
    """One row of four samples, four rows of one, two and two: same loss, same gradients."""
    model = tiny_assembly(family)
    trainable.set_trainable(model, EVERYTHING)
    model.train()
    splits = [[MIXED], [MIXED[:2], MIXED[2:]], [MIXED[3:], MIXED[:3]], [(row,) for row in MIXED]]
    results = [gradients(model, [batch_of(model, rows) for rows in split]) for split in splits]
    loss, found = results[0]
    assert found
    for other_loss, other in results[1:]:
        torch.testing.assert_close(other_loss, loss, atol=1e-5, rtol=1e-5)
        assert other.keys() == found.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(other[name], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
@torch.no_grad()
def test_5_a_neighbour_in_the_pack_changes_nothing(family: str) -> None:
    """Other words and other pictures before and behind: bit-identical logits."""
    model = tiny_assembly(family)
    batch = batch_of(model, MIXED)
    before = logits(model, batch)
    start, end = batch.cu_seqlens[1:3].tolist()
    ids = batch.input_ids.clone()
    ids[:start], ids[end:] = 11, 12
    pixels = {key: {key: {"pixels": -inputs[key]["pixels"]}} for key, inputs in batch.media.items()}
    after = logits(model, replace(batch, input_ids=ids, media=pixels))
    assert torch.equal(after[start:end], before[start:end])
    assert not torch.allclose(after[:start], before[:start])


@pytest.mark.parametrize(
    "rows", [TEXT, MIXED[2:3], (Row(8, (5,), 0),), ()], ids=["text", "one key", "no label", "empty"]
)
def test_10_every_batch_touches_everything_that_learns(rows: tuple[Row, ...]) -> None:
    """In train mode each learning tensor gets a gradient from each batch, so no rank waits; the loss is unchanged."""
    model = tiny_assembly()
    trainable.set_trainable(model, EVERYTHING)
    batch = batch_of(model, rows)
    with torch.no_grad():
        expected = model.eval()(batch)[0]
    loss, found = gradients(model.train(), [batch])
    assert loss == expected
    assert loss == 0 if not any(row.n_labels for row in rows) else loss > 0
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if "page" not in batch.media:
        assert all(found[name].abs().sum() == 0 for name in found if name.startswith("connectors.page."))


def test_10_frozen_connectors_are_not_run_for_nothing() -> None:
    """Without media, a connector with nothing to learn does not run; in eval mode none does."""
    model, ran = tiny_assembly(), []
    for key in ("image", "page"):
        model.encoders[key].register_forward_hook(lambda module, args, out, key=key: ran.append(key))
    trainable.set_trainable(model, {"connectors.page": 1.0})
    text = batch_of(model, TEXT)
    model.train()(text)
    assert ran == ["page"]
    model.eval()(text)
    assert ran == ["page"]


@torch.no_grad()
def test_11_learned_tensors_are_all_a_fresh_assembly_needs() -> None:
    """They hold connectors only, and give a fresh model the same logits."""
    trained, fresh = tiny_assembly(), tiny_assembly()
    for parameter in trained.connectors.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = batch_of(trained, MIXED)
    assert not torch.equal(logits(trained, batch), logits(fresh, batch))
    state = trainable.trainable_state(trained)
    assert state.keys() == {f"connectors.{name}" for name, _ in trained.connectors.named_parameters()}
    trainable.load_trainable(fresh, state)
    assert torch.equal(logits(trained, batch), logits(fresh, batch))
