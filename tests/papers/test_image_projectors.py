"""Image connectors equal their papers' formulas, restated here from scratch; output in raster order; clear refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.projectors.c_abstractor import CAbstractorConnector
from mmllm.connectors.projectors.identity import IdentityConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.projectors.resampler import ResamplerConnector
from mmllm.errors import MmllmError
from mmllm.types import Features
from tests.support.equations import affine, gelu, norm

DIM, LLM = 6, 10


def features(rows: int, cols: int, n: int = 2, dim: int = DIM, front: tuple[int, ...] = ()) -> Features:
    """Random features on a grid (..., rows, cols)."""
    grid = (*front, rows, cols)
    values = torch.randn(n, math.prod(grid), dim, generator=torch.Generator().manual_seed(3))
    return Features({-2: values}, torch.ones(values.shape[:2], dtype=torch.bool), grid)


def indexed(rows: int, cols: int, dim: int = DIM) -> Features:
    """Every patch holds its own raster index in all channels."""
    values = torch.arange(rows * cols, dtype=torch.float32)[None, :, None].expand(1, -1, dim)
    return Features({-2: values}, torch.ones(1, rows * cols, dtype=torch.bool), (rows, cols))


def shake(connector: Projector) -> Projector:
    """Moves every parameter, so that norms and biases at their init hide nothing."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return connector


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mlp_is_linear_gelu_linear_per_patch(depth: int) -> None:
    connector = shake(MlpConnector(dim=DIM, llm_dim=LLM, depth=depth))
    linear = [m for m in connector.modules() if isinstance(m, torch.nn.Linear)]
    given = features(3, 5)
    expected = affine(given.layers[-2], linear[0])
    for layer in linear[1:]:
        expected = affine(gelu(expected), layer)
    assert len(linear) == depth and [m.out_features for m in linear] == [LLM] * depth
    same(connector(given), expected)


@pytest.mark.parametrize(("rows", "cols", "grid"), [(4, 4, (2, 2)), (6, 4, (3, 2)), (6, 4, (2, 4)), (3, 3, (3, 3))])
def test_pool_is_the_mean_of_blocks_then_the_mlp(rows: int, cols: int, grid: tuple[int, int]) -> None:
    connector = shake(PoolConnector(dim=DIM, llm_dim=LLM, grid=grid))
    given = features(rows, cols)
    x = given.layers[-2].reshape(2, rows, cols, DIM)
    high, wide = rows // grid[0], cols // grid[1]
    cells = [
        sum(x[:, r * high + a, c * wide + b] for a in range(high) for b in range(wide)) / (high * wide)
        for r in range(grid[0])
        for c in range(grid[1])
    ]
    first, second = (m for m in connector.modules() if isinstance(m, torch.nn.Linear))
    same(connector(given), affine(gelu(affine(torch.stack(cells, 1), first)), second))
    assert connector.out_grid((rows, cols)) == grid and connector.n_tokens((rows, cols)) == len(cells)


@pytest.mark.parametrize(
    ("rows", "cols", "factor", "block"),
    [(4, 4, 2, (2, 2)), (6, 4, 2, (2, 2)), (6, 9, 3, (3, 3)), (3, 8, [1, 4], (1, 4)), (4, 6, [2, 3], (2, 3))],
)
def test_pixel_shuffle_puts_row_column_width_side_by_side(rows: int, cols: int, factor: Any, block: Any) -> None:
    connector = shake(PixelShuffleConnector(dim=DIM, llm_dim=LLM, factor=factor))
    given = features(rows, cols)
    x = given.layers[-2].reshape(2, rows, cols, DIM)
    down, across = block
    tokens = [
        torch.cat([x[:, r * down + a, c * across + b] for a in range(down) for b in range(across)], -1)
        for r in range(rows // down)
        for c in range(cols // across)
    ]
    assert connector.out_grid((rows, cols)) == (rows // down, cols // across)
    expected = torch.stack(tokens, 1)
    assert torch.equal(connector.shuffle(given), expected)
    layer_norm, first, _, second = connector.mlp
    same(connector(given), affine(gelu(affine(norm(expected, layer_norm), first)), second))


def test_pixel_shuffle_is_internvls_v2_order() -> None:
    """InternVL's own steps (views and permutes on [N, W, H, C] with scale 0.5), as its model code states them."""
    given = features(4, 6)
    x = given.layers[-2].reshape(2, 4, 6, DIM)
    n, w, h, c = x.shape
    x = x.reshape(n, w, h // 2, c * 2).permute(0, 2, 1, 3)
    x = x.reshape(n, h // 2, w // 2, c * 4).permute(0, 2, 1, 3)
    shuffled = PixelShuffleConnector(dim=DIM, llm_dim=LLM).shuffle(given)
    assert torch.equal(shuffled, x.reshape(n, -1, c * 4))


def test_pool_is_the_mean_over_the_blocks_of_pixel_shuffle() -> None:
    given = features(8, 12)
    pool = PoolConnector(dim=DIM, llm_dim=DIM, grid=(4, 6))
    pool.mlp = torch.nn.Sequential()  # what enters the MLP
    blocks = PixelShuffleConnector(dim=DIM, llm_dim=LLM, factor=2).shuffle(given).unflatten(-1, (4, DIM))
    same(pool(given), blocks.mean(2))


def test_outputs_are_in_raster_order() -> None:
    given = indexed(4, 6)
    expected = [[r * 2 * 6 + c * 2 + 3.5 for c in range(3)] for r in range(2)]  # mean of i, i+1, i+6, i+7
    pool = PoolConnector(dim=DIM, llm_dim=DIM, grid=(2, 3))
    pool.mlp = torch.nn.Sequential()
    assert pool(given)[0, :, 0].reshape(2, 3).tolist() == expected
    shuffled = PixelShuffleConnector(dim=DIM, llm_dim=LLM).shuffle(given)[0].unflatten(-1, (4, DIM))[..., 0]
    assert shuffled[0].tolist() == [0, 1, 6, 7] and shuffled[5].tolist() == [16, 17, 22, 23]
    abstractor = CAbstractorConnector(dim=DIM, llm_dim=DIM, source_grid=(4, 6), grid=(2, 3), depth=1, width=DIM)
    abstractor.before, abstractor.after, abstractor.mlp = (torch.nn.Identity() for _ in range(3))
    torch.nn.init.zeros_(abstractor.positions)
    assert abstractor(given)[0, :, 0].reshape(2, 3).tolist() == expected
    identity = IdentityConnector(dim=DIM, llm_dim=DIM)
    assert identity(given)[0, :, 0].tolist() == list(range(24))


def test_c_abstractor_is_positions_blocks_pool_blocks_mlp() -> None:
    connector = shake(CAbstractorConnector(dim=DIM, llm_dim=LLM, source_grid=(6, 4), grid=(3, 2), depth=2, width=8))
    given = features(6, 4)
    x = (given.layers[-2] + connector.positions).transpose(1, 2).reshape(2, DIM, 6, 4)
    x = connector.before(x)
    assert x.shape == (2, 8, 6, 4)
    x = connector.after(x.reshape(2, 8, 3, 2, 2, 2).mean((3, 5)))
    first, silu, second = connector.mlp
    x = affine(x.flatten(2).transpose(1, 2), first)
    assert torch.equal(silu(x), torch.nn.SiLU()(x))
    same(connector(given), affine(x * torch.sigmoid(x), second))
    assert sum(1 for m in connector.modules() if type(m).__name__ == "Bottleneck") == 4
    assert sum(1 for m in connector.modules() if type(m).__name__ == "SEModule") == 4


def test_c_abstractors_norm_and_eos_tokens() -> None:
    """A LayerNorm before the positions; learned tokens behind those of the picture."""
    words: dict[str, Any] = {"dim": DIM, "llm_dim": LLM, "source_grid": (6, 4), "grid": (3, 2), "depth": 2, "width": 8}
    connector = shake(CAbstractorConnector(**words, norm=True, eos=2))
    plain = CAbstractorConnector(**words)
    plain.load_state_dict({name: p for name, p in connector.state_dict().items() if name.split(".")[0] in
                           ("positions", "before", "after", "mlp")})  # fmt: skip
    given = features(6, 4)
    # timm's LayerNorm, whose eps is another
    normed = functional.layer_norm(given.layers[-2], (DIM,), connector.norm.weight, connector.norm.bias, 1e-6)
    read = replace(given, layers={-2: normed})
    same(connector(given), torch.cat([plain(read), connector.eos.expand(2, 2, LLM)], dim=1))
    assert connector.out_grid((6, 4)) == (1, 8)
    with pytest.raises(MmllmError, match=r"2 tokens are put behind one map, but an item has 3 \(\[3, 6, 4\]\)"):
        connector.out_grid((3, 6, 4))
    start = CAbstractorConnector(**{**words, "llm_dim": 500}, eos=4).eos.detach()
    assert abs(float(start.std()) - 0.02) < 0.002
    with pytest.raises(MmllmError, match="eos: -1 must be at least 0"):
        CAbstractorConnector(**words, eos=-1)


def test_c_abstractor_positions_start_small() -> None:
    positions = CAbstractorConnector(dim=64, llm_dim=LLM, grid=(2, 2), depth=1, width=8).positions
    assert positions.shape == (576, 64) and abs(float(positions.detach().std()) - 0.02) < 0.002


def test_resampler_is_flamingos() -> None:
    connector = ResamplerConnector(dim=DIM, llm_dim=LLM, latents=3, depth=2, heads=2, head_dim=4)
    assert 0.5 < float(connector.latents.detach().std()) < 1.6  # N(0, 1), seen before it is shaken
    shake(connector)
    given = features(2, 3)
    x, z = given.layers[-2], connector.latents.expand(2, 3, DIM)
    for attention, feed in zip(connector.attention, connector.feed, strict=True):
        latents, media = norm(z, attention.norm_latents), norm(x, attention.norm_features)
        query = affine(latents, attention.query).reshape(2, 3, 2, 4)
        key, value = affine(torch.cat([media, latents], 1), attention.key_value).reshape(2, 9, 2, 2, 4).unbind(2)
        weights = (torch.einsum("nlhd,nthd->nhlt", query, key) / 2).softmax(-1)
        z = z + affine(torch.einsum("nhlt,nthd->nlhd", weights, value).reshape(2, 3, 8), attention.output)
        layer_norm, up, _, down = feed
        z = z + affine(gelu(affine(norm(z, layer_norm), up)), down)
    same(connector(given), affine(norm(z, connector.norm), connector.output))


def test_resamplers_frames_have_vectors_of_their_own() -> None:
    """Added to all tokens of a frame; a picture is frame 0; one too many is an error."""
    words: dict[str, Any] = {"dim": DIM, "llm_dim": LLM, "latents": 3, "depth": 1, "heads": 2, "head_dim": 4}
    connector = shake(ResamplerConnector(**words, frames=3))
    plain = ResamplerConnector(**words)
    plain.load_state_dict({name: p for name, p in connector.state_dict().items() if name != "frames"})
    for front, used in (((3,), [0, 1, 2]), ((2,), [0, 1]), ((), [0])):
        given = features(2, 2, front=front)
        moved = given.layers[-2] + connector.frames[used].repeat_interleave(4, 0)
        same(connector(given), plain(replace(given, layers={-2: moved})))
    with pytest.raises(MmllmError, match="vectors for 3 frames, but an item has 4"):
        connector.out_grid((4, 2, 2))
    with pytest.raises(MmllmError, match="frames: -1 must be at least 0"):
        ResamplerConnector(**words, frames=-1)


def test_resampler_does_not_read_masked_tokens_nor_their_order() -> None:
    connector = shake(ResamplerConnector(dim=DIM, llm_dim=LLM, latents=3, depth=2, heads=2, head_dim=4, width=12))
    given = features(2, 3)
    short = Features({-2: given.layers[-2][:, :4]}, given.mask[:, :4], (4,))
    given.mask[:, 4:] = False
    same(connector(given), connector(short))
    turned = Features({-2: short.layers[-2].flip(1)}, short.mask, (4,))
    same(connector(turned), connector(short))


def test_several_layers_enter_side_by_side() -> None:
    given = features(4, 4, dim=2 * DIM)
    both = given.layers[-2]
    split = Features({1: both[..., :DIM], -1: both[..., DIM:]}, given.mask, given.grid)
    connector = PoolConnector(dim=2 * DIM, llm_dim=LLM, grid=(2, 2))
    assert torch.equal(connector(split), connector(given))


@pytest.mark.parametrize(
    "connector",
    [
        PoolConnector(dim=DIM, llm_dim=LLM, grid=(2, 2)),
        PixelShuffleConnector(dim=DIM, llm_dim=LLM),
        CAbstractorConnector(dim=DIM, llm_dim=LLM, source_grid=(4, 4), grid=(2, 2), depth=1, width=8),
    ],
    ids=lambda c: type(c).__name__,
)
def test_frames_in_front_are_maps_of_their_own(connector: Projector) -> None:
    clip = features(4, 4, front=(3,))
    frames = [Features({-2: clip.layers[-2][:, i * 16 : i * 16 + 16]}, clip.mask[:, :16], (4, 4)) for i in range(3)]
    assert connector.out_grid(clip.grid) == (3, *connector.out_grid((4, 4)))
    same(connector(clip), torch.cat([connector(frame) for frame in frames], 1))


@pytest.mark.parametrize(
    ("build", "grid", "sentence"),
    [
        (lambda: PoolConnector(dim=4, llm_dim=4, grid=(12, 12)), (27, 27), r"27 x 27 patches to a grid of \[12, 12\]"),
        (lambda: PoolConnector(dim=4, llm_dim=4, grid=(2, 2)), (8,), r"this encoder's grid is \[8\]"),
        (lambda: PoolConnector(dim=4, llm_dim=4, grid=(2,)), (8, 8), r"\[2\] is over \[time\]"),
        (lambda: PoolConnector(dim=4, llm_dim=4, grid=(0, 2)), (8, 8), "all at least 1"),
        (lambda: PoolConnector(dim=4, llm_dim=4, width=0), (8, 8), "width: 0 must be at least 1"),
        (lambda: MlpConnector(dim=4, llm_dim=4, depth=0), (8, 8), "depth: 0 must be at least 1"),
        (lambda: PixelShuffleConnector(dim=4, llm_dim=4), (27, 27), "factor: 2 must divide the encoder's grid of 27"),
        (lambda: PixelShuffleConnector(dim=4, llm_dim=4, factor=0), (4, 4), "factor: 0 must be at least 1"),
        (
            lambda: PixelShuffleConnector(dim=4, llm_dim=4, factor=[1, 0]),
            (4, 4),
            r"factor: \[1, 0\] must be at least 1",
        ),
        (lambda: PixelShuffleConnector(dim=4, llm_dim=4, factor=[1, 2], axes=1), (4,), r"of them with axes: 2"),
        (lambda: PixelShuffleConnector(dim=4, llm_dim=4, factor=[1, 4]), (4, 6), r"factor: \[1, 4\] must divide"),
        (lambda: IdentityConnector(dim=4, llm_dim=8), (4, 4), "the encoder gives 4 and the LLM takes 8"),
        (lambda: ResamplerConnector(dim=4, llm_dim=4, latents=0), (4, 4), "latents: 0 must be at least 1"),
        (lambda: CAbstractorConnector(dim=4, llm_dim=4, depth=0), (24, 24), "without blocks use pool"),
        (
            lambda: CAbstractorConnector(dim=4, llm_dim=4, depth=1, width=8),
            (16, 16),
            r"set source_grid: \[16, 16\]",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(build: Any, grid: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        build().out_grid(grid)


def test_pool_uses_the_exact_gelu_of_the_paper() -> None:
    x = torch.linspace(-3, 3, 13)
    _, activation, _ = PoolConnector(dim=4, llm_dim=4).mlp
    same(activation(x), gelu(x))
    assert not torch.allclose(activation(x), functional.gelu(x, approximate="tanh"), atol=1e-5)


def test_pools_mlp_is_as_wide_as_it_is_told() -> None:
    """dim -> width -> width -> llm_dim; without a width, the LLM's."""
    shapes = [tuple(p.shape) for p in PoolConnector(dim=4, llm_dim=6, depth=3, width=10).parameters() if p.dim() > 1]
    assert shapes == [(10, 4), (10, 10), (6, 10)]
    shapes = [tuple(p.shape) for p in PoolConnector(dim=4, llm_dim=6, depth=2).parameters() if p.dim() > 1]
    assert shapes == [(6, 4), (6, 6)]


def test_pools_norm_is_a_layer_norm_of_each_patch_before_the_mean() -> None:
    """Features a thousand times as large give the same tokens."""
    pool = PoolConnector(dim=DIM, llm_dim=12, grid=(2, 2), norm=True)
    given = features(4, 4)
    x = given.concatenated()
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    blocks = x.reshape(len(x), 2, 2, 2, 2, DIM).mean((2, 4)).flatten(1, 2)
    same(pool(given), pool.mlp(blocks))
    large = replace(given, layers={index: 1000 * layer for index, layer in given.layers.items()})
    torch.testing.assert_close(pool(large), pool(given), atol=1e-4, rtol=1e-4)
