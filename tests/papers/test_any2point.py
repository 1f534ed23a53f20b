"""``any2point``: its equations in plain torch, the three faults it mends, and its contract inside the encoder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmllm.connectors.encoder_adapters.any2point.any2point import Any2PointConnector
from mmllm.connectors.encoder_adapters.any2point.tokens import PointTokenizer
from mmllm.connectors.encoder_adapters.any2point.views import (
    group_numbers,
    interpolated,
    projected,
    rotations,
    same,
    views_of,
    voxel_numbers,
)
from mmllm.encoders.points.points import PointsEncoder
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import load_trainable, set_trainable, trainable_state
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoder_adapters import any2point
from tests.support.parts import tiny_llm
from tests.support.talks import object_talks, packed
from tests.support.two_steps import fitted

LLM = SimpleNamespace(dim=24)


def placed(**words: Any) -> tuple[PointsEncoder, Any2PointConnector]:
    """The tiny encoder with the connector inside; all weights random, the adapters' zeros too."""
    encoder = tiny_encoders.points()
    torch.manual_seed(1)
    connector = any2point(16, LLM) if not words else Any2PointConnector(dim=16, llm_dim=24, **words)
    connector.attach(encoder, "points")
    encoder.adapters.append(connector)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder, connector


def clouds(encoder: PointsEncoder, n: int = 3) -> dict[str, Tensor]:
    return encoder.processor.collate([encoder.processor.read(media) for media in tiny_encoders.clouds()[:n]])


def test_positions_are_interpolated_between_two_neighbours() -> None:
    """At whole numbers the table itself (the authors' weights are both 0 there), else a mixture."""
    table = torch.randn(8, 5)
    places = torch.tensor([0.0, 3.0, 3.25, 7.0])[:, None]
    expected = torch.stack([table[0], table[3], 0.75 * table[3] + 0.25 * table[4], table[7]])
    torch.testing.assert_close(interpolated(table, places), expected)
    plane = torch.randn(3, 4, 5)
    found = interpolated(plane, torch.tensor([[2.0, 3.0], [0.5, 1.25]]))
    mixed = 0.5 * (0.75 * plane[0, 1] + 0.25 * plane[0, 2]) + 0.5 * (0.75 * plane[1, 1] + 0.25 * plane[1, 2])
    torch.testing.assert_close(found, torch.stack([plane[2, 3], mixed]))
    assert torch.allclose(interpolated(torch.ones(8, 5), torch.rand(100, 1) * 7), torch.ones(100, 5))


def test_every_item_uses_the_whole_table_whatever_its_neighbours() -> None:
    """The range is the item's own with its minimum subtracted, and the farthest token is last, not first again."""
    generator = torch.Generator().manual_seed(2)
    small = torch.randn(1, 6, 3, generator=generator) * 0.1 + 5
    large = torch.randn(1, 6, 3, generator=generator) * 9
    for sizes in ((77,), (8, 6)):
        both = projected(torch.cat([small, large]), rotations(4), sizes)
        torch.testing.assert_close(both[:1], projected(small, rotations(4), sizes), rtol=1e-4, atol=1e-4)
        assert both.shape == (2, 4, 6, len(sizes))
        for axis, size in enumerate(sizes):
            assert (both[..., axis].amin(dim=2) == 0).all() and torch.allclose(
                both[..., axis].amax(dim=2), torch.tensor(size - 1.0)
            )
    assert (projected(torch.zeros(1, 6, 3), rotations(4), (77,)) == 0).all()


def test_views_are_rotations_that_differ() -> None:
    turns = rotations(6)
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(6, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(6), atol=1e-6) and torch.equal(turns[0], torch.eye(3))
    axes = turns[:, 0]
    assert (axes @ axes.T - torch.eye(6)).max() < 0.99


def test_groups_and_voxels() -> None:
    places = torch.tensor([0.0, 1.9, 2.0, 3.0])[None, None, :, None]
    numbers, count = group_numbers(places, 2, (4,))
    pairs = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert count == 2 and same(numbers[..., None])[0, 0].int().tolist() == pairs
    centres = torch.tensor([[[-1.0, -1, -1], [-0.1, -0.1, -0.1], [1, 1, 1], [0.9, 0.9, 0.1]]])
    assert same(voxel_numbers(centres, 2))[0].int().tolist() == pairs


def test_groups_of_a_plane_and_voxels_of_one_edge() -> None:
    """Row-major over both axes, the last ones narrower; voxels count from the item's own smallest coordinates."""
    places = torch.tensor([[0.0, 4.9], [2.9, 3.0], [3.0, 0.0], [3.9, 4.0]])[None, None]
    numbers, count = group_numbers(places, 3, (4, 5))
    assert count == 4 and numbers.tolist() == [[[1, 1, 2, 3]]]
    centres = torch.tensor([[[-0.9, 0.0, 0.2], [-0.5, 0.1, 0.2], [0.2, 0.0, 0.9]]])
    assert voxel_numbers(centres, 4, 0.5).tolist() == [[[0, 0, 0], [0, 0, 0], [2, 0, 1]]]


def plain_tokens(tokenizer: PointTokenizer, points: Tensor) -> Tensor:
    """The tokenizer for one cloud float[P, 3] in loops: halve, gather, weight by waves, MLP, largest plus mean."""
    x = tokenizer.start(points)
    for stage in tokenizer.stages:
        half, rows = len(points) // 2, []
        order = [(points - points[c]).norm(dim=1).argsort()[: tokenizer.neighbours] for c in range(half)]
        offsets = torch.stack([points[index] - points[c] for c, index in enumerate(order)])
        spread = offsets.norm(dim=-1).mean()
        for c, index in enumerate(order):
            rates = math.pi / 4 * 8 ** torch.linspace(0, 1, -(-stage.dim // 6))
            angles = (offsets[c] / spread)[:, :, None] * rates
            waves = torch.cat([angles.cos(), angles.sin()], dim=-1).transpose(1, 2).flatten(1)[:, : stage.dim]
            group = (torch.cat([x[c].expand(len(index), -1), x[index]], dim=1) + waves) * waves
            group = group + stage.mlp(group)
            rows.append(group.max(dim=0).values + group.mean(dim=0))
        x, points = torch.stack(rows), points[:half]
    return tokenizer.out(tokenizer.norm(x))


@torch.no_grad()
def test_equals_the_papers_equations() -> None:
    """The whole pass in plain torch: tokens, positions, 0.3 Adapter(FFN), guided aggregation, head."""
    encoder, connector = placed(width=6, neighbours=4, views=2, adapter=4, inner=4, span=2, cells=2, patches=2)
    generator = torch.Generator().manual_seed(4)
    # no two distances equal: which neighbour comes first is then no matter
    drawn = [torch.randn(50, 3, generator=generator) for _ in range(3)]
    inputs = encoder.processor.collate([encoder.processor.read(cloud) for cloud in drawn])
    plain = tiny_encoders.points().backbone.blocks
    found = connector(encoder(**inputs))
    for n in range(3):
        cloud = inputs["points"][n].float() / 32767
        tokens = plain_tokens(connector.tokenizer, cloud)
        views = views_of(cloud[None, :8], encoder.positions, rotations(2), span=2, cells=2)
        x = torch.cat([connector.first.weight, tokens])
        for block, adapter, norm in zip(plain, connector.adapters, connector.norms, strict=True):
            x = x + torch.cat([torch.zeros(1, 16), views.positions[0]])
            normed = block.ln_1(x)[None]
            x = x + block.attn(normed, normed, normed, need_weights=False)[0][0]
            f = block.mlp(block.ln_2(x))
            x = x + f + 0.3 * adapter.up(functional.gelu(adapter.down(f)))
            query, key, value = connector.together.to_heads(x[1:]).chunk(3, dim=1)
            us = []
            for group in (*views.together[0], views.near[0, 0]):
                u = torch.zeros(8, 4)
                for t in range(8):
                    members = group[t].nonzero().flatten()
                    u[t] = (query[t] @ key[members].T / 2).softmax(0) @ value[members]
                u = torch.stack([u[group[t]].mean(0) for t in range(8)])
                us.append(functional.gelu(norm(connector.together.out(u))))
            agree = torch.stack([(1 + functional.cosine_similarity(u, us[-1])) / 2 + 1e-6 for u in us[:-1]])
            weights = agree / agree.sum(0)
            guided = sum(w[:, None] * u for w, u in zip(weights, us[:-1], strict=True))
            x = x + torch.cat([torch.zeros(1, 16), 0.3 * guided])
        whole = connector.head(connector.head_norm(torch.cat([x[1:].amax(0), x[0]])))
        spread = connector.patch_head(connector.patch_norm(x[1:3]))
        torch.testing.assert_close(found[n], torch.cat([whole[None], spread]), rtol=1e-5, atol=1e-5)


RELEASED: dict[str, Any] = {
    "form": "released", "width": 6, "neighbours": 4, "views": 2, "adapter": 4, "inner": 4, "heads": 2, "span": 1,
    "voxel": 1.1, "patches": 2,
}  # fmt: skip


def normed(rows: Tensor, norm: Any) -> Tensor:
    """GELU of batch norm by the rows' own statistics."""
    centred = rows - rows.mean(0)
    return functional.gelu(centred / (centred.square().mean(0) + 1e-5).sqrt() * norm.weight + norm.bias)


def released_guidance(x: Tensor, views: Any, together: Any, norms: Any) -> Tensor:
    """What the released code adds to tokens float[N, 8, D], token by token and group by group."""
    n_items, count = len(x), views.n_groups
    flats = []
    for m, view in enumerate(together.views):
        rows = torch.zeros(n_items * count, 16)
        for n in range(n_items):
            heads = [part.chunk(2, 1) for part in view.to_heads(view.norm(x[n])).chunk(3, dim=1)]
            y = []
            for t, own in enumerate(views.groups[n, m].tolist()):
                members = [i for i in range(8) if views.groups[n, m, i] == own]
                scores = [q[t] @ k[members].T / 4**0.5 for q, k in zip(*heads[:2], strict=True)]
                read = [one.softmax(0) @ v[members] for one, v in zip(scores, heads[2], strict=True)]
                y.append(x[n, t] + view.out(torch.cat(read)))
            for group in range(count):
                members = [i for i in range(8) if views.groups[n, m, i] == group]
                if members:
                    rows[n * count + group] = torch.stack([y[i] for i in members]).mean(0)
        rows = normed(rows, norms.flat[m]).view(n_items, count, 16)
        flats.append(torch.stack([rows[n, views.groups[n, m]] for n in range(n_items)]))
    places = [(n, *voxel) for n in range(n_items) for voxel in views.voxels[n].tolist()]
    found, tokens = sorted(set(places)), x.flatten(0, 1)
    inside = [tokens[[i for i, place in enumerate(places) if place == one]] for one in found]
    solid = normed(torch.stack([one.max(0).values + one.mean(0) for one in inside]), norms.solid)
    solid = solid[[found.index(place) for place in places]].view(x.shape)
    weights = torch.stack([(1 + functional.cosine_similarity(flat, solid, dim=-1)) / 2 for flat in flats])
    weights = weights / weights.sum(0)
    return torch.stack([w[..., None] * flat for w, flat in zip(weights, flats, strict=True)]).sum(0)


@torch.no_grad()
def test_the_released_form_is_the_authors_equations() -> None:
    """All blocks while they learn: batch norms by the step's own groups, empty ones as zeros; then the running ones."""
    encoder, connector = placed(**RELEASED)
    connector.train()
    generator = torch.Generator().manual_seed(4)
    drawn = [torch.randn(50, 3, generator=generator) for _ in range(3)]
    inputs = encoder.processor.collate([encoder.processor.read(cloud) for cloud in drawn])
    found = connector(encoder(**inputs))
    cloud = inputs["points"].float() / 32767
    views = views_of(cloud[:, :8], encoder.positions, rotations(2), 1, 4, 1.1)
    assert min(len(one.unique()) for one in views.groups.flatten(0, 1)) < views.n_groups  # some are empty
    assert all(2 <= len(one.unique(dim=0)) <= 6 for one in views.voxels)  # some hold more than one token
    first = connector.first.weight.expand(3, 1, -1)
    x = torch.cat([first, torch.stack([plain_tokens(connector.tokenizer, one) for one in cloud])], dim=1)
    plain = tiny_encoders.points().backbone.blocks
    for block, adapter, norms in zip(plain, connector.adapters, connector.norms, strict=True):
        x = x + functional.pad(views.positions, (0, 0, 1, 0))
        inner = block.ln_1(x)
        x = x + block.attn(inner, inner, inner, need_weights=False)[0]
        f = block.mlp(block.ln_2(x))
        bent = adapter.down(f)
        x = x + f + 0.3 * adapter.up(bent * torch.sigmoid(1.702 * bent))
        x = x + functional.pad(0.3 * released_guidance(x[:, 1:], views, connector.together, norms), (0, 0, 1, 0))
    whole = connector.head(connector.head_norm(torch.cat([x[:, 1:].amax(1), x[:, 0]], dim=1)))
    spread = connector.patch_head(connector.patch_norm(x[:, 1:3]))
    torch.testing.assert_close(found, torch.cat([whole[:, None], spread], dim=1), rtol=1e-5, atol=1e-5)
    moved = connector.norms[0].solid
    assert moved.mean.any() and not torch.equal(moved.var, torch.ones(16))
    alone = {"points": inputs["points"][:1]}
    connector.eval()
    torch.testing.assert_close(connector(encoder(**inputs))[:1], connector(encoder(**alone)), rtol=1e-5, atol=1e-5)


def test_blank_clouds_are_no_part_of_the_batch_norms() -> None:
    """Statistics with a blank item behind the real ones are those without it."""
    _, connector = placed(**RELEASED)
    guide, norms = connector.together, connector.norms[0].train()
    generator = torch.Generator().manual_seed(3)
    x, centres = torch.randn(3, 8, 16, generator=generator), torch.rand(3, 8, 3, generator=generator)
    views = views_of(centres, torch.randn(77, 16), rotations(2), 3, 4, 0.2)
    two = views_of(centres[:2], torch.randn(77, 16), rotations(2), 3, 4, 0.2)
    torch.testing.assert_close(guide(x, views, norms, 2)[:2], guide(x[:2], two, norms, 2), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(guide(x, views, norms, 3)[:2], guide(x[:2], two, norms, 2), atol=1e-3)


def test_neighbours_in_the_batch_change_nothing() -> None:
    encoder, connector = placed()
    together = connector(encoder(**clouds(encoder)))
    alone = connector(encoder(**clouds(encoder, 1)))
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


def test_removal_restores_the_encoder_bit_for_bit() -> None:
    encoder, other = tiny_encoders.points(), tiny_encoders.points()
    inputs = clouds(encoder)
    before = encoder(**inputs).concatenated()
    connector = any2point(16, LLM)
    handle = connector.attach(encoder, "points")
    encoder.adapters.append(connector)
    assert not torch.equal(encoder(**inputs).concatenated(), before)
    assert torch.equal(other(**inputs).concatenated(), before)  # works on the instance, not on the class
    handle.remove()
    encoder.adapters.clear()
    after = encoder(**inputs)
    assert torch.equal(after.concatenated(), before) and after.extras["prefix"].shape[1] == 0


def test_what_is_left_out_has_no_weights() -> None:
    """The arms of the comparison: no positions, no adapters, no aggregation; the tokenizer alone is layer 0."""
    encoder, connector = placed(width=6, positions=False, adapter=0, guided=0.0)
    names = {name.split(".")[0] for name, _ in connector.named_parameters()}
    assert names == {"tokenizer", "first", "head_norm", "head"}
    encoder.layers = (0,)
    inputs = clouds(encoder, 1)
    tokens = connector.tokenizer(inputs["points"].float() / 32767)
    assert torch.equal(encoder(**inputs).layers[0], tokens)


def test_half_precision_encoders_keep_the_connector_in_float32() -> None:
    encoder, connector = placed()
    full = connector(encoder(**clouds(encoder)))
    encoder.to(torch.bfloat16)
    features = encoder(**clouds(encoder))
    assert features.concatenated().dtype == torch.bfloat16
    layers = {key: value.float() for key, value in features.layers.items()}  # as the model hands them on
    half = connector(replace(features, layers=layers))
    assert half.dtype == torch.float32
    assert functional.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.98


def assembly_with_points(**words: Any) -> MultimodalLM:
    """A tiny Llama and the tiny encoder with any2point."""
    llm = tiny_llm()
    encoder = tiny_encoders.points()
    connector = Any2PointConnector(dim=16, llm_dim=llm.dim, **words) if words else any2point(encoder.dim, llm)
    keys = {"points": "points"}
    model = MultimodalLM(llm, {"points": encoder}, {"points": connector}, keys, adapts={"points": ["points"]})
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("words", [{}, RELEASED], ids=["own", "released"])
def test_learns_through_an_assembly(tmp_path: Path, words: dict[str, Any]) -> None:
    """Every weight has a gradient by the second step; the loss falls; a checkpoint gives the same loss again."""
    model = assembly_with_points(**words)
    batch = packed(model, object_talks(tmp_path))
    assert len(batch.media_positions["points"]) == 9  # three objects, 1 + 2 tokens each
    set_trainable(model, {"connectors.points": 1e-2})
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("connectors.points.") for name in learning)
    losses, silent = fitted(model, batch)
    assert silent == [] and losses[-1] < losses[0] - 5
    state = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    model.eval()
    again = assembly_with_points(**words)
    assert not torch.allclose(again(batch)[0], model(batch)[0])
    load_trainable(again, state)
    with torch.no_grad():  # where gradients are kept, torch may take other kernels, with other last bits
        assert torch.equal(again(batch)[0], model(batch)[0])


def test_a_batch_without_points_touches_every_weight(tmp_path: Path) -> None:
    model = assembly_with_points()
    set_trainable(model, {"connectors.points": 1e-2})
    model.train()
    model(packed(model, object_talks(tmp_path, 0)))[0].backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(p.grad.abs().sum() == 0 for p in model.parameters() if p.requires_grad)


def test_text_only_conversations_do_not_see_it(tmp_path: Path) -> None:
    model = assembly_with_points()
    batch = packed(model, object_talks(tmp_path, 0))
    first = model(batch)[0]
    for parameter in model.connectors.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(model(batch)[0], first)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"views": 0}, "views 0, span 8, cells 4 and inner 12 must be at least 1"),
        ({"patches": -1}, "patches -1 at least 0"),
        ({"form": "theirs"}, "form 'theirs' is unknown; known: own, released"),
        ({"form": "released", "inner": 10}, "heads 6 must divide inner 10"),
        ({"voxel": 0.0}, "voxel 0 must be above 0"),
        ({"width": 0}, "width 0 and neighbours 24 must be at least 1"),
    ],
)
def test_bad_words_are_named(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        connector = Any2PointConnector(dim=16, llm_dim=24, **words)
        connector.attach(tiny_encoders.points(), "points")


def test_wrong_encoders_are_named() -> None:
    connector = any2point(16, LLM)
    with pytest.raises(MmllmError, match="one encoder of points, not in image"):
        connector.attach(tiny_encoders.hf_vision(), "image")
    encoder = tiny_encoders.points()
    connector.attach(encoder, "points")
    with pytest.raises(MmllmError, match="two connectors would make the tokens"):
        any2point(16, LLM).attach(encoder, "points")
    with pytest.raises(MmllmError, match="one encoder of points, not in points, clouds"):
        connector.attach(tiny_encoders.points(), "clouds")
    with pytest.raises(MmllmError, match="patches 9 is more than the 8 tokens"):
        Any2PointConnector(dim=16, llm_dim=24, patches=9).n_tokens((8,))
