"""Adapters inside encoders as parts of an assembly: start, training, names under `train:`, checkpoints, digests."""

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
    """Untrained the logits are those of the assembly without it; trained not; removed again."""
    bare, assembly = adapted_assembly(None), adapted_assembly(kind)
    batch = batch_of(bare, ROWS)
    expected = logits(bare, batch)
    assert torch.equal(logits(assembly, batch), expected)
    randomise(assembly.connectors["inner"], buffers=True)
    assert not torch.allclose(logits(assembly, batch), expected, atol=1e-3)
    assembly.handles["inner"].remove()
    assert torch.equal(logits(assembly, batch), expected)


@each
@torch.no_grad()
def test_checkpoint_round_trip_and_digests(kind: str, tmp_path: Path) -> None:
    """Running statistics are in it; the frozen parts' digests know nothing of the adapter."""
    assembly, fresh = adapted_assembly(kind), adapted_assembly(kind)
    assert trainable.frozen_digests(assembly) == trainable.frozen_digests(adapted_assembly(None))
    randomise(assembly.connectors["inner"], buffers=True)
    state = {name: tensor.clone() for name, tensor in trainable.trainable_state(assembly).items()}
    assert any(name.endswith("norm.var") for name in state) == (kind == "conformer_adapter")
    save_file(state, tmp_path / "learned.safetensors")
    trainable.load_trainable(fresh, load_file(tmp_path / "learned.safetensors"))
    batch = batch_of(assembly, ROWS)
    assert torch.equal(logits(fresh, batch), logits(assembly, batch))


@each
def test_it_alone_learns_and_a_batch_without_media_moves_nothing(kind: str) -> None:
    assembly = adapted_assembly(kind)
    trainable.set_trainable(assembly, {"connectors.inner": 1e-2})
    assembly.train()
    learning = trainable.learning(assembly, "connectors.inner")
    batch = batch_of(assembly, ROWS)
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        nll, *_ = assembly(batch)
        nll.backward()
        optimizer.step()
        found.append(float(nll.detach()))
    assert found[2] < found[0]
    others = [name for name, p in assembly.named_parameters() if p.grad is not None and ".inner." not in name]
    assert others == []
    optimizer.zero_grad()
    state = {name: tensor.clone() for name, tensor in assembly.connectors["inner"].state_dict().items()}
    nll, *_ = assembly(batch_of(assembly, (TEXT,)))
    nll.backward()
    assert all(p.grad is not None and not p.grad.any() for p in learning.values() if p.grad is not None)
    assert all(torch.equal(value, state[name]) for name, value in assembly.connectors["inner"].state_dict().items())


def test_fusion_in_two_stages() -> None:
    """Each task's adapters by the data they are of, then what mixes them and nothing else."""
    assembly = adapted_assembly("audio_adapter_fusion")
    trainable.set_trainable(assembly, {"connectors.inner.adapters": 1e-2})
    assembly.train()
    for row, task, other in ((PICTURE, "one", "two"), (PAGE, "two", "one")):
        assembly.zero_grad()
        assembly(batch_of(assembly, (row,)))[0].backward()
        moved = [name for name, p in assembly.named_parameters() if p.grad is not None and p.grad.any()]
        assert moved and all(f".inner.adapters.{task}." in name for name in moved)
        assert not any(f".{other}." in name for name in moved)
    randomise(assembly.connectors["inner"], buffers=True)
    rows = trainable.set_trainable(assembly, {"connectors.inner.alpha": 1e-2})
    assert [row.name for row in rows if row.lr is not None] == ["connectors.inner.alpha"]
    assembly.zero_grad()
    assembly(batch_of(assembly, ROWS))[0].backward()
    moved = [name for name, p in assembly.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved and all(".inner.alpha." in name for name in moved)


def test_one_task_at_a_time_needs_no_other_data() -> None:
    """`train: connectors.inner.adapters.one` on data of that task."""
    assembly = adapted_assembly("audio_adapter_fusion")
    trainable.set_trainable(assembly, {"connectors.inner.adapters.one": 1e-2})
    assembly.train()
    assembly(batch_of(assembly, (PICTURE,)))[0].backward()
    moved = [name for name, p in assembly.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved and all(".inner.adapters.one." in name for name in moved)


def test_a_stage_that_freezes_the_conformer_leaves_its_statistics() -> None:
    assembly = adapted_assembly("conformer_adapter")
    norms = [module for module in assembly.modules() if isinstance(module, RealBatchNorm)]
    randomise(assembly.connectors["inner"], buffers=True)
    before = [norm.mean.clone() for norm in norms]
    for trained, moves in (("connectors.image", False), ("connectors.inner", True)):
        trainable.set_trainable(assembly, {trained: 1e-2})
        assembly.train()
        assembly(batch_of(assembly, ROWS))
        assert all(torch.equal(norm.mean, old) != moves for norm, old in zip(norms, before, strict=True))
