"""The contract of every connector inside the LLM, on every family: walked through ``tiny()`` of the registry.

``python -m tests.contracts.test_every_inside write NAME`` writes the golden list of trainable names of a connector.
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmllm.generation.generator import Decoding
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of, shortened
from tests.support.forward import logits, per_row
from tests.support.inside import ROWS, VARIANTS, WITH_IMAGE, connector_of, inside, key_of
from tests.support.parts import FAMILIES, randomise, tiny_llm
from tests.support.places import GOLDEN

MATRIX = [(family, variant) for variant in VARIANTS for family in FAMILIES]
each = pytest.mark.parametrize(("family", "variant"), MATRIX)


def removed(model: MultimodalLM, variant: str) -> MultimodalLM:
    """The model with the tested connector taken out of the LLM."""
    handle = model.handles[key_of(variant)]
    assert handle is not None
    handle.remove()
    return model


def train(model: MultimodalLM, variant: str) -> dict[str, torch.nn.Parameter]:
    """Let the tested connector learn, alone."""
    name = f"connectors.{key_of(variant)}"
    trainable.set_trainable(model, {name: 1e-2})
    model.train()
    return trainable.learning(model, name)


def loss_of(model: MultimodalLM, rows: tuple[Row, ...] = ROWS) -> torch.Tensor:
    """Loss and extra loss of the rows."""
    nll, extra = model(batch_of(model, rows))
    return nll + extra


@each
@torch.no_grad()
def test_start_removal_and_the_llms_own_tree(family: str, variant: str) -> None:
    """Untrained it changes nothing where it says so; trained it does; removed the LLM is bit for bit what it was."""
    bare = tiny_llm(family)
    model = inside(variant, family)
    connector, batch = connector_of(model, variant), batch_of(model, ROWS)
    start = logits(model, batch)
    if connector.zero_init:
        assert torch.equal(logits(removed(model, variant), batch), start)
        model.handles[key_of(variant)] = connector.attach(model.llm)
    randomise(connector)
    trained = logits(model, batch)
    assert not torch.allclose(trained, start, atol=1e-3)
    assert list(model.llm.state_dict()) == list(bare.state_dict())
    again = connector.attach(removed(model, variant).llm)
    assert again is not None
    torch.testing.assert_close(logits(model, batch), trained, rtol=0, atol=0)
    again.remove()
    without = logits(model, batch)
    assert not torch.equal(without, trained)
    other = MultimodalLM(bare, {}, {}, {})
    text = batch_of(other, (Row(2, (11,)), Row(7, (8,))))
    assert torch.equal(logits(model, text), logits(other, text))
    assert all(torch.equal(a, b) for a, b in zip(model.llm.parameters(), bare.parameters(), strict=True))


@each
@torch.no_grad()
def test_cached_equals_uncached(family: str, variant: str) -> None:
    """Prefill and two steps, with rows finishing and decodings taking turns, give the packed pass's logits."""
    model = inside(variant, family)
    randomise(connector_of(model, variant))
    batch = batch_of(model, ROWS)
    rows = per_row(model, batch)
    ids = batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    first, second = (Decoding(model, shortened(batch, 2)) for _ in range(2))
    for number, decoding in ((0, first), (1, second)):
        torch.testing.assert_close(decoding.logits, torch.stack([row[-3] for row in rows]), atol=2e-5, rtol=1e-4)
        if number:
            first.step([int(row[-2]) for row in ids])
    second.keep([0, 2])
    for decoding, alive in ((first, range(len(rows))), (second, [0, 2])):
        if decoding is second:
            decoding.step([int(ids[row][-2]) for row in alive])
        torch.testing.assert_close(decoding.logits, torch.stack([rows[r][-2] for r in alive]), atol=2e-5, rtol=1e-4)
        decoding.step([int(ids[row][-1]) for row in alive])
        torch.testing.assert_close(decoding.logits, torch.stack([rows[r][-1] for r in alive]), atol=2e-5, rtol=1e-4)


@each
@torch.no_grad()
def test_mixed_batches(family: str, variant: str) -> None:
    """A conversation alone equals itself in a pack; with ``when`` the text-only rows are those of the bare LLM."""
    model = inside(variant, family, when=("image",))
    randomise(connector_of(model, variant))
    mixed = per_row(model, batch_of(model, ROWS))
    for row, together in zip(ROWS, mixed, strict=True):
        torch.testing.assert_close(logits(model, batch_of(model, (row,))), together, atol=2e-5, rtol=1e-4)
    removed(model, variant)
    for number, (changed, bare) in enumerate(zip(mixed, per_row(model, batch_of(model, ROWS)), strict=True)):
        assert torch.equal(changed, bare) == (number not in WITH_IMAGE), number


@each
def test_gradients(family: str, variant: str) -> None:
    """By step 2 every tensor has one; recomputed blocks give the same; text alone gives zeros, not none."""
    model = inside(variant, family)
    learning = train(model, variant)
    optimizer = torch.optim.SGD(learning.values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(parameter.grad is None for parameter in model.llm.parameters())
    found = []
    for recompute in (False, True):
        model.llm.gradient_checkpointing(recompute)
        optimizer.zero_grad()
        torch.manual_seed(3)
        loss_of(model).backward()
        found.append({name: p.grad.clone() for name, p in learning.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == learning.keys()
    for name in learning:
        torch.testing.assert_close(found[1][name], found[0][name], atol=1e-6, rtol=1e-4, msg=name)
    optimizer.zero_grad()
    loss_of(model, (ROWS[1],)).backward()
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.isfinite().all()] == []


@each
@torch.no_grad()
def test_checkpoint_round_trip(family: str, variant: str, tmp_path: Path) -> None:
    """Saved and loaded into a fresh model, the logits are the same bits; frozen digests do not know of it."""
    model = inside(variant, family)
    digests = trainable.frozen_digests(model)
    randomise(connector_of(model, variant))
    assert (
        trainable.frozen_digests(model)
        == digests
        == trainable.frozen_digests(removed(inside(variant, family), variant))
    )
    state = {name: tensor.clone() for name, tensor in trainable.trainable_state(model).items()}
    save_file(state, tmp_path / "learned.safetensors")
    fresh = inside(variant, family)
    trainable.load_trainable(fresh, load_file(tmp_path / "learned.safetensors"))
    batch = batch_of(model, ROWS)
    assert torch.equal(logits(fresh, batch), logits(model, batch))


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_names(variant: str) -> None:
    """What learns is called what it was called: checkpoints stay readable."""
    assert golden(variant) == (GOLDEN / f"{variant.replace(' ', '_')}.txt").read_text().split("\n")[:-1]


def golden(variant: str) -> list[str]:
    """Names and shapes of the tested connector's learned tensors on the Llama family."""
    model = inside(variant)
    prefix = f"connectors.{key_of(variant)}."
    learned = trainable.trainable_state(model).items()
    return [f"{name.removeprefix(prefix)} {list(t.shape)}" for name, t in learned if name.startswith(prefix)]


PAIRS = [pair for pair in permutations(("lora", "inner_adaptor", "moe_lora", "pill", "llama_adapter"), 2)]


@pytest.mark.parametrize(("one", "two"), PAIRS)
@torch.no_grad()
def test_several_at_once_in_any_order(one: str, two: str) -> None:
    """Both work together; each removed leaves exactly the other; both removed leave the LLM."""
    from mmllm import registry

    model = inside(one)
    randomise(connector_of(model, one))
    batch = batch_of(model, ROWS)
    alone = logits(model, batch)
    second = registry.load("connectors", two).tiny(0, model.llm)
    handle = second.attach(model.llm)
    second.eval()
    randomise(second, seed=6)
    model.connectors["second"] = second
    both = logits(model, batch)
    assert not torch.allclose(both, alone, atol=1e-3)
    handle.remove()
    assert torch.equal(logits(model, batch), alone)
    handle = second.attach(model.llm)
    assert torch.allclose(logits(model, batch), both, atol=1e-6)
    removed(model, one)
    only = logits(model, batch)
    assert not torch.allclose(only, both, atol=1e-3)
    handle.remove()
    del model.connectors["second"]
    assert torch.equal(logits(model, batch), logits(removed(inside(one), one), batch))


if __name__ == "__main__":
    command, *names = sys.argv[1:]
    assert command == "write"
    GOLDEN.mkdir(exist_ok=True)
    for chosen in VARIANTS:
        if chosen.removesuffix(" from image") in names:
            (GOLDEN / f"{chosen.replace(' ', '_')}.txt").write_text("".join(f"{line}\n" for line in golden(chosen)))
