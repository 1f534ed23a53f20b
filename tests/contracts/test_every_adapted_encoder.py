"""The contract of every adapter inside encoders, in encoders of every library that has blocks to work inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from mmllm.connectors.base import EncoderAdapter
from mmllm.encoders.base import Encoder
from mmllm.hooks import EncoderContext
from tests.support.adapted import ADAPTERS, FAKES, SETTINGS, encoder, inputs_of, registered, variant
from tests.support.layouts import layout_of
from tests.support.parts import randomise

PAIRS = [(name, kind) for name in (*FAKES, *registered()) for kind in ADAPTERS]
PAIRS += [(name, kind) for name in ("clips", "wav2vec2", "open_clip") for kind in SETTINGS]
each = pytest.mark.parametrize(("name", "kind"), PAIRS)


@contextmanager
def adapted(name: str, kind: str, frozen: Encoder | None = None) -> Iterator[EncoderAdapter]:
    """The adapter in the encoder (or in a copy of it), as the model puts it there; taken out at the end."""
    place = encoder(name) if frozen is None else frozen
    if kind.startswith("ted_adapter") and len(layout_of(encoder(name), inputs_of(name)).grid) != 2:
        pytest.skip("ted_adapter works on frames of rows and columns")
    torch.manual_seed(3)
    connector = variant(kind)
    handle = connector.attach(place, "image")
    place.adapters[:] = [connector]
    try:
        yield connector.requires_grad_(False).eval()
    finally:
        handle.remove()
        place.adapters[:] = []


def look(name: str, numbers: tuple[int, ...] = (0, 1, 2), dataset_names: tuple[str, ...] | None = None) -> Tensor:
    """Features of some items, padding at zero."""
    with encoder(name).scope.open(EncoderContext(dataset_names=dataset_names)):
        features = encoder(name)(**inputs_of(name, numbers))
    return features.concatenated() * features.mask[..., None]


def test_the_walk_covers_the_adapters_and_the_encoders() -> None:
    assert set(ADAPTERS) >= {
        "ted_adapter", "adaptformer", "vl_adapter", "conformer_adapter", "mixture_of_adapters", "audio_adapter_fusion",
    }  # fmt: skip
    assert set(registered()) >= {"hf_vision", "open_clip", "frames", "hf_audio"}


@each
def test_start_opened_and_removed(name: str, kind: str) -> None:
    """Untrained it changes nothing where it says so, trained it does; removed the encoder is the same bit for bit."""
    bare, tensors = look(name), {key: value.clone() for key, value in encoder(name).state_dict().items()}
    with adapted(name, kind) as connector:
        assert torch.equal(look(name), bare) == connector.zero_init
        randomise(connector, buffers=True)
        opened = look(name)
        assert opened.isfinite().all() and (opened - bare).abs().max() > 1e-3
    assert torch.equal(look(name), bare)
    again = connector.attach(encoder(name), "image")
    assert torch.equal(look(name), opened)
    again.remove()
    assert torch.equal(look(name), bare)
    assert list(encoder(name).state_dict()) == list(tensors)
    assert all(torch.equal(value, tensors[key]) for key, value in encoder(name).state_dict().items())


@each
def test_items_do_not_influence_each_other(name: str, kind: str) -> None:
    with adapted(name, kind) as connector:
        randomise(connector, buffers=True)
        together = look(name)
        for number in range(3):
            alone = look(name, (number,))[0]
            torch.testing.assert_close(together[number, : len(alone)], alone, rtol=1e-4, atol=1e-4)


@each
def test_by_the_second_step_every_tensor_learns_and_nothing_else(name: str, kind: str) -> None:
    with adapted(name, kind) as connector:
        weights = torch.randn(look(name).shape, generator=torch.Generator().manual_seed(2))
        for dataset_names, prefix in stages(kind, connector):
            learning = {key: p for key, p in connector.named_parameters() if key.startswith(prefix)}
            connector.requires_grad_(False).train()
            for parameter in learning.values():
                parameter.requires_grad_(True)
            optimizer = torch.optim.SGD(learning.values(), lr=1e-3)
            for _ in range(2):
                optimizer.zero_grad()
                (look(name, dataset_names=dataset_names) * weights).sum().backward()
                optimizer.step()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in learning.values())
            silent = [key for key, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0]
            assert [key for key in silent if moves(name) or "difference" not in key] == []
        assert all(p.grad is None for p in encoder(name).parameters())


def moves(name: str) -> bool:
    """Whether any item has more than one row: between the rows of a picture there is no change over time."""
    return max(layout_of(encoder(name), inputs_of(name)).rows) > 1


def stages(kind: str, connector: EncoderAdapter) -> list[tuple[tuple[str, ...] | None, str]]:
    """Data entries of the items, and what learns: all at once, or first the tasks' adapters and then what mixes them.

    The stage that mixes knows no task.
    """
    if not kind.startswith("audio_adapter_fusion"):
        return [(None, "")]
    mixes = list(connector.get_submodule("alpha").children())
    return [(("captions", "instruct", "captions"), "adapters."), *([(None, "alpha.")] if mixes else [])]


@each
def test_a_bfloat16_encoder_takes_a_float32_adapter(name: str, kind: str) -> None:
    half = deepcopy(encoder(name)).bfloat16()
    given = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs_of(name).items()}
    bare = half(**given).concatenated()
    with adapted(name, kind, half) as connector:
        assert all(p.dtype == torch.float32 for p in connector.parameters())
        start = half(**given).concatenated()
        assert start.dtype == torch.bfloat16 and torch.equal(start, bare) == connector.zero_init
        randomise(connector, buffers=True)
        opened = half(**given).concatenated()
        assert opened.isfinite().all() and not torch.equal(opened, bare)
    assert torch.equal(half(**given).concatenated(), bare)
