"""The contract every encoder of the registry keeps with its processor, whatever it loads: walked through tiny ones."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from PIL import Image

from mmllm import registry
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError, MmllmError
from mmllm.testing.tiny.encoders import TINY

NAMES = sorted(registry.table("encoders"))
name = pytest.fixture(scope="module", params=NAMES)(lambda request: request.param)


@pytest.fixture(scope="module")
def encoder(name: str) -> Encoder:
    return TINY[name].make()


@pytest.fixture(scope="module")
def media(name: str) -> list[Any]:
    return TINY[name].media()


@pytest.fixture
def items(encoder: Encoder, media: list[Any]) -> list[dict[str, torch.Tensor]]:
    return [encoder.processor.read(one) for one in media]


def test_every_encoder_has_a_tiny_one() -> None:
    assert sorted(TINY) == NAMES


def test_features_have_the_announced_shape(encoder: Encoder, items: list[Any]) -> None:
    """Each item's tokens come first, what is behind them is masked."""
    grids = tuple(encoder.processor.grid(one) for one in items)
    features = encoder(**encoder.processor.collate(items))
    lengths = [torch.Size(grid).numel() for grid in grids]
    assert features.item_grids() == grids and features.grid in grids
    assert list(features.layers) == list(encoder.layers)
    assert all(layer.shape == (3, max(lengths), encoder.dim) for layer in features.layers.values())
    assert features.mask.dtype == torch.bool
    assert torch.equal(features.mask, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    assert features.concatenated().shape == (3, max(lengths), encoder.dim * len(encoder.layers))
    assert all(len(fact) == 3 for fact in features.extras.values())


def test_measuring_and_reading_agree(encoder: Encoder, media: list[Any]) -> None:
    processor = encoder.processor
    for one in media:
        read, measured = processor.read(one), processor.measure(one)
        assert processor.grid(read) == processor.grid(measured)
        assert processor.seconds(read) == processor.seconds(measured)
        assert processor.fixed_grid() in (None, processor.grid(read))
        times = processor.seconds(read)
        assert times is None or len(times) == processor.grid(read)[0]


def test_a_pickled_processor_is_small_and_reads_the_same(encoder: Encoder, media: list[Any]) -> None:
    """It holds settings alone, also after it has read: no weights, workers or tables."""
    items = [encoder.processor.read(one) for one in media]
    packed = pickle.dumps(encoder.processor)
    assert len(packed) < 10_000
    again = pickle.loads(packed)
    assert again.modality == encoder.modality and again.fixed_grid() == encoder.processor.fixed_grid()
    for one, item in zip(media, items, strict=True):
        read = again.read(one)
        assert read.keys() == item.keys() and all(torch.equal(read[key], item[key]) for key in item)
        assert again.grid(again.measure(one)) == encoder.processor.grid(item)
    assert not any(isinstance(value, torch.nn.Module) for value in vars(again).values())


def test_items_do_not_influence_each_other(encoder: Encoder, items: list[Any]) -> None:
    features = encoder(**encoder.processor.collate(items))
    together = [row[mask] for row, mask in zip(features.concatenated(), features.mask, strict=True)]
    alone = [encoder(**encoder.processor.collate([one])).concatenated()[0] for one in items]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together[0].shape != together[1].shape or not torch.allclose(together[0], together[1], atol=1e-3)


def test_it_is_frozen_and_stays_in_eval_mode(encoder: Encoder, items: list[Any]) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    features = encoder(**encoder.processor.collate(items))
    assert not features.concatenated().requires_grad


def test_weights_that_a_stage_trains_get_gradients(name: str, items: list[Any]) -> None:
    trained = TINY[name].make()
    trained.requires_grad_(True)
    trained(**trained.processor.collate(items)).concatenated().square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())


def test_tiny_is_always_the_same_and_leaves_the_random_state_alone(
    name: str, encoder: Encoder, items: list[Any]
) -> None:
    before = torch.get_rng_state()
    again = TINY[name].make()
    assert torch.equal(before, torch.get_rng_state())
    inputs = encoder.processor.collate(items)
    assert torch.equal(encoder(**inputs).concatenated(), again(**inputs).concatenated())
    assert sum(p.numel() for p in encoder.parameters()) < 50_000


def test_each_weight_is_stored_once(encoder: Encoder) -> None:
    pointers = [value.data_ptr() for value in encoder.state_dict().values() if value.numel()]
    assert len(pointers) == len(set(pointers))


def test_the_blank_is_an_ordinary_item(encoder: Encoder, items: list[Any]) -> None:
    read, blank = items[0], encoder.processor.blank()
    assert {k: (v.dim(), v.dtype) for k, v in read.items()} == {k: (v.dim(), v.dtype) for k, v in blank.items()}
    assert encoder.processor.fixed_grid() in (None, encoder.processor.grid(blank))
    assert encoder(**encoder.processor.collate([read, blank])).concatenated().isfinite().all()


def test_paths_bytes_and_opened_pictures_are_the_same(encoder: Encoder, tmp_path) -> None:
    if encoder.modality != "image":
        pytest.skip("reads no pictures: its own tests say how it is read")
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    first, *others = (encoder.processor.read(one) for one in (picture, path, str(path), buffer.getvalue()))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_what_cannot_be_read_is_a_media_error(encoder: Encoder, tmp_path) -> None:
    damaged = b"\xff\xfe not text" if encoder.modality == "document" else b"not a picture"
    for wrong in (tmp_path / "missing.png", damaged, b""):
        with pytest.raises(MediaError):
            encoder.processor.read(wrong)


def test_layers_follow_one_rule_and_come_in_the_order_asked_for(encoder: Encoder, items: list[Any]) -> None:
    blocks, before = encoder.n_blocks, encoder.layers
    if not blocks:
        pytest.skip("has no blocks")
    inputs = encoder.processor.collate(items)
    encoder.layers = (blocks, 0, -1, -blocks - 1, 1)
    try:
        features = encoder(**inputs)
    finally:
        encoder.layers = before
    assert list(features.layers) == [blocks, 0, -1, -blocks - 1, 1]
    assert torch.equal(features.layers[blocks], features.layers[-1])
    assert torch.equal(features.layers[0], features.layers[-blocks - 1])
    assert not torch.allclose(features.layers[0], features.layers[1], atol=1e-4)


@pytest.mark.parametrize("layers", [(4,), (-5,), (0, 17)])
def test_layers_that_do_not_exist_are_named(encoder: Encoder, layers: tuple[int, ...]) -> None:
    before, encoder.layers = encoder.layers, layers
    try:
        with pytest.raises(MmllmError, match=rf"layers: {layers[-1]} does not exist: this encoder has \d blocks"):
            encoder(**encoder.processor.collate([encoder.processor.blank()]))
    finally:
        encoder.layers = before


def test_half_precision_weights_take_ordinary_inputs(name: str, items: list[Any]) -> None:
    half = TINY[name].make().to(torch.bfloat16)
    features = half(**half.processor.collate(items))
    assert features.concatenated().dtype == torch.bfloat16
