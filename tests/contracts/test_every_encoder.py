"""The contract every encoder of the registry keeps, whatever it loads: walked through ``tiny()``."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from mmllm import registry
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError, MmllmError

NAMES = sorted(registry.table("encoders"))


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return registry.load("encoders", request.param).tiny()


def items(encoder: Encoder) -> list[dict[str, torch.Tensor]]:
    return [encoder.read(media) for media in encoder.tiny_media()]


def test_features_have_the_announced_shape(encoder: Encoder) -> None:
    """Each item's tokens come first, what is behind them is masked."""
    inputs = items(encoder)
    grids = tuple(encoder.grid(one) for one in inputs)
    features = encoder(**encoder.collate(inputs))
    lengths = [torch.Size(grid).numel() for grid in grids]
    assert features.item_grids() == grids and features.grid in grids
    assert list(features.layers) == list(encoder.layers)
    assert all(layer.shape == (3, max(lengths), encoder.dim) for layer in features.layers.values())
    assert features.mask.dtype == torch.bool
    assert torch.equal(features.mask, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    assert features.concatenated().shape == (3, max(lengths), encoder.dim * len(encoder.layers))
    assert all(len(fact) == 3 for fact in features.facts.values())


def test_measuring_and_reading_agree(encoder: Encoder) -> None:
    for media in encoder.tiny_media():
        read, measured = encoder.read(media), encoder.measure(media)
        assert encoder.grid(read) == encoder.grid(measured)
        assert encoder.seconds(read) == encoder.seconds(measured)
        assert encoder.fixed_grid() in (None, encoder.grid(read))
        times = encoder.seconds(read)
        assert times is None or len(times) == encoder.grid(read)[0]


def test_items_do_not_influence_each_other(encoder: Encoder) -> None:
    inputs = items(encoder)
    features = encoder(**encoder.collate(inputs))
    together = [row[mask] for row, mask in zip(features.concatenated(), features.mask, strict=True)]
    alone = [encoder(**encoder.collate([one])).concatenated()[0] for one in inputs]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together[0].shape != together[1].shape or not torch.allclose(together[0], together[1], atol=1e-3)


def test_it_is_frozen_and_stays_in_eval_mode(encoder: Encoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    features = encoder(**encoder.collate(items(encoder)))
    assert not features.concatenated().requires_grad


def test_weights_that_a_stage_trains_get_gradients(encoder: Encoder) -> None:
    trained = type(encoder).tiny()
    trained.requires_grad_(True)
    trained(**trained.collate(items(trained))).concatenated().square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())


def test_tiny_is_always_the_same_and_leaves_the_random_state_alone(encoder: Encoder) -> None:
    before = torch.get_rng_state()
    again = type(encoder).tiny()
    assert torch.equal(before, torch.get_rng_state())
    inputs = encoder.collate(items(encoder))
    assert torch.equal(encoder(**inputs).concatenated(), again(**inputs).concatenated())
    assert sum(p.numel() for p in encoder.parameters()) < 50_000


def test_each_weight_is_stored_once(encoder: Encoder) -> None:
    pointers = [value.data_ptr() for value in encoder.state_dict().values() if value.numel()]
    assert len(pointers) == len(set(pointers))


def test_the_dummy_is_an_ordinary_item(encoder: Encoder) -> None:
    read, dummy = items(encoder)[0], encoder.dummy()
    assert {k: (v.dim(), v.dtype) for k, v in read.items()} == {k: (v.dim(), v.dtype) for k, v in dummy.items()}
    assert encoder.fixed_grid() in (None, encoder.grid(dummy))
    assert encoder(**encoder.collate([read, dummy])).concatenated().isfinite().all()


def test_paths_bytes_and_opened_pictures_are_the_same(encoder: Encoder, tmp_path) -> None:
    if encoder.modality != "image":
        pytest.skip("reads no pictures: its own tests say how it is read")
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    first, *others = (encoder.read(media) for media in (picture, path, str(path), buffer.getvalue()))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_what_cannot_be_read_is_a_media_error(encoder: Encoder, tmp_path) -> None:
    damaged = b"\xff\xfe not text" if encoder.modality == "document" else b"not a picture"
    for media in (tmp_path / "missing.png", damaged, b""):
        with pytest.raises(MediaError):
            encoder.read(media)


def test_layers_follow_one_rule_and_come_in_the_order_asked_for(encoder: Encoder) -> None:
    blocks, before = encoder.n_blocks, encoder.layers
    if not blocks:
        pytest.skip("has no blocks")
    inputs = encoder.collate(items(encoder))
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
            encoder(**encoder.collate([encoder.dummy()]))
    finally:
        encoder.layers = before


def test_half_precision_weights_take_ordinary_inputs(encoder: Encoder) -> None:
    half = type(encoder).tiny().to(torch.bfloat16)
    features = half(**half.collate(items(half)))
    assert features.concatenated().dtype == torch.bfloat16
