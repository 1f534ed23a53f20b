"""Adapters inside encoders as parts of a model: start, training, names under `train:`, checkpoints, digests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmllm.connectors.layers.batch_norm import RealBatchNorm
from mmllm.model import trainable
from tests.support.adapted import ADAPTERS
from tests.support.adapted_assembly import BOTH, PAGE, PICTURE, TEXT, adapted_assembly
from tests.support.assemblies import batch_of
from tests.support.forward import logits
from tests.support.parts import randomise

ROWS = (BOTH, TEXT, PICTURE, PAGE)
each = pytest.mark.parametrize("kind", ADAPTERS)


@each
@torch.no_grad()
def test_start_and_removal(kind: str) -> None:
    """Untrained the logits are those of the model without it; trained not; removed again."""
    bare, model = adapted_assembly(None), adapted_assembly(kind)
    batch = batch_of(bare, ROWS)
    expected = logits(bare, batch)
    assert torch.equal(logits(model, batch), expected)
    randomise(model.connectors["inner"], buffers=True)
    assert not torch.allclose(logits(model, batch), expected, atol=1e-3)
    model.handles["inner"].remove()
    assert torch.equal(logits(model, batch), expected)
    assert not any(encoder.adapters for encoder in model.encoders.values())


@each
@torch.no_grad()
def test_checkpoint_round_trip_and_digests(kind: str, tmp_path: Path) -> None:
    """Running statistics are in it; the frozen parts' digests know nothing of the adapter."""
    model, fresh = adapted_assembly(kind), adapted_assembly(kind)
    assert trainable.frozen_digests(model) == trainable.frozen_digests(adapted_assembly(None))
    randomise(model.connectors["inner"], buffers=True)
    state = {name: tensor.clone() for name, tensor in trainable.trainable_state(model).items()}
    assert any(name.endswith("norm.var") for name in state) == (kind == "conformer_adapter")
    save_file(state, tmp_path / "learned.safetensors")
    trainable.load_trainable(fresh, load_file(tmp_path / "learned.safetensors"))
    batch = batch_of(model, ROWS)
    assert torch.equal(logits(fresh, batch), logits(model, batch))


@each
def test_it_alone_learns_and_a_batch_without_media_moves_nothing(kind: str) -> None:
    model = adapted_assembly(kind)
    trainable.set_trainable(model, {"connectors.inner": 1e-2})
    model.train()
    learning = trainable.learning(model, "connectors.inner")
    batch = batch_of(model, ROWS)
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        nll, *_ = model(batch)
        nll.backward()
        optimizer.step()
        found.append(float(nll.detach()))
    assert found[2] < found[0]
    others = [name for name, p in model.named_parameters() if p.grad is not None and ".inner." not in name]
    assert others == []
    optimizer.zero_grad()
    state = {name: tensor.clone() for name, tensor in model.connectors["inner"].state_dict().items()}
    nll, *_ = model(batch_of(model, (TEXT,)))
    nll.backward()
    assert all(p.grad is not None and not p.grad.any() for p in learning.values() if p.grad is not None)
    assert all(torch.equal(value, state[name]) for name, value in model.connectors["inner"].state_dict().items())


def test_fusion_in_two_stages() -> None:
    """Each task's adapters by the data they are of, then what mixes them and nothing else."""
    model = adapted_assembly("audio_adapter_fusion")
    trainable.set_trainable(model, {"connectors.inner.adapters": 1e-2})
    model.train()
    for row, task, other in ((PICTURE, "one", "two"), (PAGE, "two", "one")):
        model.zero_grad()
        model(batch_of(model, (row,)))[0].backward()
        moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
        assert moved and all(f".inner.adapters.{task}." in name for name in moved)
        assert not any(f".{other}." in name for name in moved)
    randomise(model.connectors["inner"], buffers=True)
    rows = trainable.set_trainable(model, {"connectors.inner.alpha": 1e-2})
    assert [row.name for row in rows if row.lr is not None] == ["connectors.inner.alpha"]
    model.zero_grad()
    model(batch_of(model, ROWS))[0].backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved and all(".inner.alpha." in name for name in moved)


def test_one_task_at_a_time_needs_no_other_data() -> None:
    """`train: connectors.inner.adapters.one` on data of that task."""
    model = adapted_assembly("audio_adapter_fusion")
    trainable.set_trainable(model, {"connectors.inner.adapters.one": 1e-2})
    model.train()
    model(batch_of(model, (PICTURE,)))[0].backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved and all(".inner.adapters.one." in name for name in moved)


def test_a_stage_that_freezes_the_conformer_leaves_its_statistics() -> None:
    model = adapted_assembly("conformer_adapter")
    norms = [module for module in model.modules() if isinstance(module, RealBatchNorm)]
    randomise(model.connectors["inner"], buffers=True)
    before = [norm.mean.clone() for norm in norms]
    for trained, moves in (("connectors.image", False), ("connectors.inner", True)):
        trainable.set_trainable(model, {trained: 1e-2})
        model.train()
        model(batch_of(model, ROWS))
        assert all(torch.equal(norm.mean, old) != moves for norm, old in zip(norms, before, strict=True))
