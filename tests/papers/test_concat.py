"""Channel concatenation of several encoders against plain torch: order, resampling by hand, norm, groups, refusals."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm.connectors.projectors.concat import ConcatConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import MmllmError
from mmllm.hooks.passes import text_context
from mmllm.model.build import build
from mmllm.model.project import project
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing import check_projector
from mmllm.types import Features, time_steps
from tests.support.assemblies import Row, batch_of
from tests.support.equations import affine, gelu, norm
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.two_steps import two_steps

LLM = 10
WIDTHS = (6, 4)


def features(*grid: int, dim: int = 6, n: int = 2, layers: tuple[int, ...] = (-2,), seed: int = 3) -> Features:
    """Random features of that width in each layer."""
    generator = torch.Generator().manual_seed(seed)
    values = {layer: torch.randn(n, math.prod(grid), dim, generator=generator) for layer in layers}
    return Features(values, torch.ones(n, math.prod(grid), dtype=torch.bool), grid)


def concat(dim: int = sum(WIDTHS), **words: Any) -> ConcatConnector:
    torch.manual_seed(4)
    return ConcatConnector(dim=dim, llm_dim=LLM, **words)


def mlp(x: Tensor, connector: ConcatConnector | MlpConnector) -> Tensor:
    """W2 GELU(W1 x + b1) + b2."""
    return affine(gelu(affine(x, connector.mlp[0])), connector.mlp[2])


def bilinear(x: Tensor, rows: int, cols: int) -> Tensor:
    """One map float[r, c, D] at the centres of rows x cols cells: each is read between its four nearest patches."""
    out = torch.zeros(rows, cols, x.shape[-1])
    for i in range(rows):
        for j in range(cols):
            spots = []
            for place, new, old in ((i, rows, x.shape[0]), (j, cols, x.shape[1])):
                at = max(0.0, (place + 0.5) * old / new - 0.5)
                low = min(int(at), old - 1)
                spots.append((low, min(low + 1, old - 1), at - low))
            (up, down, y), (left, right, z) = spots
            top = (1 - z) * x[up, left] + z * x[up, right]
            bottom = (1 - z) * x[down, left] + z * x[down, right]
            out[i, j] = (1 - y) * top + y * bottom
    return out


def resampled(given: Features, rows: int, cols: int) -> Tensor:
    """float[N, rows * cols, D] of pictures."""
    maps = given.concatenated().unflatten(1, given.grid)
    return torch.stack([bilinear(one, rows, cols).flatten(0, 1) for one in maps])


@torch.no_grad()
def test_encoders_of_one_grid_lie_side_by_side_in_their_order() -> None:
    """Prismatic's: [DINOv2 ; SigLIP] on the width of each patch, all layers of the one before those of the other."""
    one, other = features(3, 4, dim=3, layers=(2, -1)), features(3, 4, dim=4, seed=5)
    connector = concat()
    expected = mlp(torch.cat([one.layers[2], one.layers[-1], other.layers[-2]], -1), connector)
    torch.testing.assert_close(connector(one, other), expected, atol=1e-5, rtol=1e-5)
    turned = mlp(torch.cat([other.layers[-2], one.layers[2], one.layers[-1]], -1), connector)
    assert not torch.allclose(connector(one, other), turned, atol=1e-2)
    torch.testing.assert_close(connector(other, one), turned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("grids", "grid", "to"), [
    (((4, 4), (6, 3)), None, (4, 4)),
    (((2, 3), (8, 6)), None, (2, 3)),
    (((4, 4), (6, 6)), [3, 5], (3, 5)),
    (((5, 5), (5, 5)), [2, 2], (2, 2)),
])  # fmt: skip
@torch.no_grad()
def test_other_grids_are_read_between_patch_centres(
    grids: tuple[tuple[int, int], tuple[int, int]], grid: list[int] | None, to: tuple[int, int]
) -> None:
    """Cambrian-1's interpolation, up and down, stated cell by cell; to the first encoder's grid or a given one."""
    given = [features(*one, dim=width, seed=width) for one, width in zip(grids, WIDTHS, strict=True)]
    connector = concat(grid=grid)
    expected = mlp(torch.cat([resampled(one, *to) for one in given], -1), connector)
    torch.testing.assert_close(connector(*given), expected, atol=1e-5, rtol=1e-5)
    assert connector.out_grid(*grids) == to and connector.n_tokens(*grids) == math.prod(to)


@torch.no_grad()
def test_area_is_the_mean_of_the_patches_of_a_cell() -> None:
    one, other = features(2, 3), features(4, 9, dim=4)
    connector = concat(resample="area")
    means = other.layers[-2].reshape(2, 2, 2, 3, 3, 4).mean((2, 4)).flatten(1, 2)
    expected = mlp(torch.cat([one.layers[-2], means], -1), connector)
    torch.testing.assert_close(connector(one, other), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_norm_is_of_each_layer_of_each_encoder_before_it_is_resampled() -> None:
    """An encoder a thousand times as large weighs the same."""
    one, other = features(4, 4), features(2, 2, dim=4)
    connector = concat(norm=True)
    sides = [norm(one.layers[-2]), resampled(Features({0: norm(other.layers[-2])}, other.mask, (2, 2)), 4, 4)]
    torch.testing.assert_close(connector(one, other), mlp(torch.cat(sides, -1), connector), atol=1e-5, rtol=1e-5)
    large = Features({-2: 1000 * other.layers[-2]}, other.mask, other.grid)
    torch.testing.assert_close(connector(one, large), connector(one, other), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(concat()(one, large), concat()(one, other), atol=1.0)
    assert [name for name, _ in connector.named_parameters()] == [name for name, _ in concat().named_parameters()]


@torch.no_grad()
def test_one_encoder_alone_is_the_mlp_connector() -> None:
    given = features(3, 5)
    alone, plain = concat(dim=6), MlpConnector(dim=6, llm_dim=LLM)
    plain.load_state_dict(alone.state_dict())
    assert torch.equal(alone(given), plain(given)) and alone.out_grid((3, 5)) == plain.out_grid((3, 5))


@torch.no_grad()
def test_frames_in_front_are_resampled_one_by_one_and_sound_in_time() -> None:
    clips, others = features(3, 2, 2), features(3, 4, 4, dim=4)
    connector = concat()
    out = connector(clips, others)
    for number in range(3):
        pair = [
            Features({-2: one.layers[-2].unflatten(1, (3, -1))[:, number]}, one.mask[:, : one.mask.shape[1] // 3], grid)
            for one, grid in ((clips, (2, 2)), (others, (4, 4)))
        ]
        torch.testing.assert_close(out[:, 4 * number : 4 * number + 4], connector(*pair), atol=1e-6, rtol=1e-5)
    assert connector.out_grid((3, 2, 2), (3, 4, 4)) == (3, 2, 2)
    sounds, fewer = features(8), features(4, dim=4)
    stretched = resampled(Features(fewer.layers, fewer.mask, (1, 4)), 1, 8)
    expected = mlp(torch.cat([sounds.layers[-2], stretched], -1), connector)
    torch.testing.assert_close(connector(sounds, fewer), expected, atol=1e-5, rtol=1e-5)
    assert time_steps(connector.out_grid((8,), (4,))) == 8 and concat(grid=[6]).out_grid((8,), (4,)) == (6,)


@pytest.mark.parametrize("grids", [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((3, 3), (3, 3), (5, 4)), ((8,), (4,))])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "area"])
def test_several_encoders_keep_the_contract(grids: tuple[tuple[int, ...], ...], resample: str) -> None:
    check_projector(partial(ConcatConnector, resample=resample), grids=grids, layers=(-2, -1))


@torch.no_grad()
def test_each_encoder_may_have_an_mlp_of_its_own() -> None:
    """Their tokens are summed, or stand one behind the other at each place (I-MoF)."""
    one, other = features(2, 3), features(4, 6, dim=4, seed=5)
    added, woven = concat(join="add", dims=WIDTHS), concat(join="interleave", dims=WIDTHS)
    woven.load_state_dict(added.state_dict())
    sides = [one.layers[-2], resampled(other, 2, 3)]
    own = [affine(gelu(affine(x, layers[0])), layers[2]) for x, layers in zip(sides, added.mlps, strict=True)]  # type: ignore[index]
    torch.testing.assert_close(added(one, other), own[0] + own[1], atol=1e-5, rtol=1e-5)
    assert added.out_grid((2, 3), (4, 6)) == (2, 3) and woven.out_grid((2, 3), (4, 6)) == (2, 6)
    places = woven(one, other).unflatten(1, (2, 3, 2))
    for number, tokens in enumerate(own):
        torch.testing.assert_close(places[:, :, :, number].flatten(1, 2), tokens, atol=1e-5, rtol=1e-5)
    # one layer for all channels is the sum of one for each encoder
    wide, each = concat(depth=1), concat(depth=1, join="add", dims=WIDTHS)
    for number, part in enumerate(wide.mlp[0].weight.split(WIDTHS, dim=1)):
        each.mlps[number][0].weight.copy_(part)  # type: ignore[index]
        each.mlps[number][0].bias.copy_(wide.mlp[0].bias / 2)  # type: ignore[index]
    torch.testing.assert_close(each(one, other), wide(one, other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("join", ["add", "interleave"])
def test_other_joins_keep_the_contract(join: str) -> None:
    def make(dim: int, llm_dim: int) -> ConcatConnector:
        return ConcatConnector(dim=dim, llm_dim=llm_dim, join=join, dims=[dim // 2] * 2)  # type: ignore[arg-type]

    # in a row of interleaved tokens those of one encoder are no neighbours
    check_projector(make, grids=((4, 4), (2, 2)), raster=join == "add")


@torch.no_grad()
def test_items_of_different_grids_are_grouped_by_both_encoders_grids() -> None:
    """Padded side by side they give what they give alone: two of the three share the first grid, not the second."""
    sizes = [((2, 2), (4, 4)), ((2, 2), (2, 2)), ((1, 2), (2, 4))]
    alone = [(features(*a, n=1, seed=k), features(*b, n=1, dim=4, seed=9 + k)) for k, (a, b) in enumerate(sizes)]
    batch = []
    for side, width in enumerate(WIDTHS):
        rows = torch.full((3, max(math.prod(size[side]) for size in sizes), width), 77.0)
        mask = torch.zeros(rows.shape[:2], dtype=torch.bool)
        for row, pair in enumerate(alone):
            values = pair[side].layers[-2][0]
            rows[row, : len(values)], mask[row, : len(values)] = values, True
        grids = tuple(size[side] for size in sizes)
        batch.append(Features({-2: rows}, mask, max(grids), grids))
    connector = concat()
    ctx = text_context(torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1], dtype=torch.int32))
    tokens, counts = project(connector, batch, ctx)
    assert counts == [4, 4, 2]
    torch.testing.assert_close(tokens, torch.cat([connector(*pair)[0] for pair in alone]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: concat(grid=[0, 2]), r"grid: \[0, 2\] must be \[rows, cols\] or \[time\], all at least 1"),
        (lambda: concat(grid=[1, 2, 3]), r"grid: \[1, 2, 3\] must be"),
        (lambda: concat(resample="nearest"), "resample: 'nearest' is unknown; known: bilinear, bicubic, area"),
        (lambda: concat(join="sum"), "join: 'sum' is unknown; known: channels, add, interleave"),
        (lambda: concat(depth=0), "depth: 0 must be at least 1"),
        (lambda: concat().out_grid((3, 4, 4), (2, 4, 4)), r"grids are \[3, 4, 4\] and \[2, 4, 4\]; give them the same"),
        (lambda: concat().out_grid((16,), (4, 4)), r"can resample rows and columns only"),
        (lambda: concat(grid=[4]).out_grid((4, 4), (4, 4)), r"grid: \[4\] does not fit its encoders' grid of \[4, 4\]"),
        (lambda: concat(grid=[4, 4]).out_grid((8,)), r"grid: \[4, 4\] does not fit"),
    ],
)
def test_what_does_not_fit_is_one_sentence(build: Any, sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        build()


def test_full_size_recipe_with_stand_ins(tmp_path: Path) -> None:
    """DINOv2 at its processor's 224 pixels beside SigLIP: 16 x 16 patches of both, one token each."""
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=4096, num_hidden_layers=4)
    places = []
    for kind, key in (("dinov2", "where"), ("siglip", "what")):
        (tmp_path / kind).mkdir()
        places.append(f"encoders.{key}.model={vision_folder(tmp_path / kind, kind, 224)}")
    given = [f"llm.path={llm}", "llm.dtype=float32", *places]
    recipe = load_recipe(folder() / "concat.yaml", given)
    model = build(recipe, "cpu")
    assert model.inputs["image"].n_tokens() == 256
    batch = batch_of(model, [Row(1, (5, "image", 9), 4), Row(2, (7,), 3)])
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, batch)
        assert silent == []
    # the build says how wide each encoder is
    woven = build(load_recipe(folder() / "concat.yaml", [*given, "connectors.image.join=interleave"]), "cpu")
    assert [layers[0].in_features for layers in woven.connectors["image"].mlps] == [  # type: ignore[union-attr]
        woven.encoders[key].dim for key in recipe.connectors["image"].encoders
    ]
    assert woven.inputs["image"].n_tokens() == 512
