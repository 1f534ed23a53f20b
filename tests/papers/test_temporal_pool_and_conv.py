"""Pooling over time and space, and VideoLLaMA 2's convolutions, against formulas restated here from scratch."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.projectors.temporal_conv import TemporalConvConnector
from mmllm.errors import MmllmError
from mmllm.hooks.passes import text_context
from mmllm.model.project import project
from mmllm.types import Features, time_steps

DIM, LLM = 6, 10


def features(*grid: int, n: int = 2, dim: int = DIM) -> Features:
    values = torch.randn(n, math.prod(grid), dim, generator=torch.Generator().manual_seed(3))
    return Features({-2: values}, torch.ones(values.shape[:2], dtype=torch.bool), grid)


def shaken(connector: Projector) -> Projector:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return connector


def bare(**words: object) -> PoolConnector:
    """Without its MLP: what enters that."""
    connector = PoolConnector(dim=DIM, llm_dim=DIM, **words)  # type: ignore[arg-type]
    connector.mlp = nn.Sequential()
    return connector


def means(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Mean of each block of one item float[*grid, D] in raster order; blocks at an end hold what is there."""
    starts = [range(0, n, size) for n, size in zip(x.shape, sizes, strict=False)]
    cells = []
    for corner in product(*starts):
        block = x[tuple(slice(a, a + size) for a, size in zip(corner, sizes, strict=True))]
        cells.append(block.reshape(-1, x.shape[-1]).sum(0) / block[..., 0].numel())
    return torch.stack(cells)


CASES = [
    ({"grid": [2, 2, 3]}, (4, 4, 6), (2, 2, 2), 2),
    ({"grid": [1, 2, 2]}, (5, 4, 2), (5, 2, 1), 1),
    ({"grid": [3]}, (12,), (4,), 3),
    ({"stride": [4]}, (11,), (4,), 3),
    ({"stride": [2, 3, 2]}, (5, 4, 5), (2, 3, 2), 3),
    ({"stride": [8, 8, 8]}, (1, 2, 3), (8, 8, 8), 1),
    ({"stride": [3, 2]}, (4, 5), (3, 2), 1),
]


@pytest.mark.parametrize(("words", "grid", "sizes", "steps"), CASES)
def test_pool_over_time_and_space(
    words: dict[str, list[int]], grid: tuple[int, ...], sizes: tuple[int, ...], steps: int
) -> None:
    given = features(*grid)
    expected = torch.stack([means(item.reshape(*grid, DIM), sizes) for item in given.layers[-2]])
    torch.testing.assert_close(bare(**words)(given), expected, atol=1e-6, rtol=1e-5)
    connector = shaken(PoolConnector(dim=DIM, llm_dim=LLM, **words))  # type: ignore[arg-type]
    assert connector.n_tokens(grid) == expected.shape[1] and time_steps(connector.out_grid(grid)) == steps
    torch.testing.assert_close(connector(given), connector.mlp(expected), atol=1e-6, rtol=1e-5)


def test_pool_of_rows_and_columns_leaves_frames_alone() -> None:
    given = features(3, 4, 4)
    pooled = bare(grid=[2, 2])
    alone = Features({-2: given.layers[-2][:, 16:32]}, given.mask[:, 16:32], (4, 4))
    assert pooled.out_grid((3, 4, 4)) == (3, 2, 2)
    torch.testing.assert_close(pooled(given)[:, 4:8], pooled(alone))


def test_pool_of_clips_of_different_length() -> None:
    """A short clip beside a long one gives what it gives alone; each has its own number of tokens."""
    connector = shaken(PoolConnector(dim=DIM, llm_dim=LLM, stride=[2, 2, 2]))
    long, short = features(5, 2, 2, n=1), features(2, 2, 2, n=1)
    values = torch.zeros(2, 20, DIM)
    values[0], values[1, :8] = long.layers[-2][0], short.layers[-2][0]
    mask = torch.arange(20) < torch.tensor([[20], [8]])
    both = Features({-2: values}, mask, (5, 2, 2), ((5, 2, 2), (2, 2, 2)))
    ctx = text_context(torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1], dtype=torch.int32))
    rows, counts = project(connector, [both], ctx)
    assert counts == [3, 1]
    torch.testing.assert_close(rows, torch.cat([connector(long)[0], connector(short)[0]]))


@pytest.mark.parametrize(
    ("words", "grid", "says"),
    [
        ({"grid": [2, 2], "stride": [2, 2]}, None, "give one"),
        ({"grid": [2, 0, 2]}, None, "all at least 1"),
        ({"stride": [1, 2, 3, 4]}, None, r"must be \[time\], \[rows, cols\], \[time, rows, cols\]"),
        ({"grid": [2, 2, 2]}, (3, 4, 4), "3 / 2 and 4 / 2 and 4 / 2 must be whole numbers"),
        ({"grid": [2, 2, 2]}, (4, 4), r"over \[time, rows, cols\], but this encoder's grid is \[4, 4\]"),
        ({"stride": [2]}, (4, 4, 4), r"over \[time\]"),
        ({"stride": [2, 2]}, (4,), r"stride: \[2, 2\] is over \[rows, cols\]"),
    ],
)
def test_pool_refuses(words: dict[str, list[int]], grid: tuple[int, ...] | None, says: str) -> None:
    with pytest.raises(MmllmError, match=says):
        connector = PoolConnector(dim=DIM, llm_dim=LLM, **words)  # type: ignore[arg-type]
        assert grid is not None
        connector.out_grid(grid)


def convolved(x: Tensor, conv: nn.Conv3d, sizes: tuple[int, int, int], padding: int) -> Tensor:
    """Conv3d with stride = kernel, block by block: float[channels, t, r, c] -> float[channels', t', r', c']."""
    t, r, c = (n + 2 * padding for n in x.shape[1:])
    around = torch.zeros(x.shape[0], t, r, c)
    around[:, padding : t - padding, padding : r - padding, padding : c - padding] = x
    counts = [n // size for n, size in zip((t, r, c), sizes, strict=True)]
    out = torch.zeros(conv.out_channels, *counts)
    for corner in product(*map(range, counts)):
        low = [n * size for n, size in zip(corner, sizes, strict=True)]
        block = around[:, low[0] : low[0] + sizes[0], low[1] : low[1] + sizes[1], low[2] : low[2] + sizes[2]]
        out[(slice(None), *corner)] = torch.einsum("octrw,ctrw->o", conv.weight, block) + conv.bias
    return out


@pytest.mark.parametrize(
    ("grid", "padding", "clip", "steps"),
    [
        ((4, 4, 4), 0, (4, 4, 4), (2, 2, 2)),
        ((5, 3, 5), 0, (6, 3, 5), (3, 1, 2)),
        ((4, 4), 0, (2, 4, 4), (1, 2, 2)),
        ((5, 3, 4), 1, (5, 3, 4), (3, 2, 3)),
        ((1, 4, 4), 1, (1, 4, 4), (1, 3, 3)),
    ],
)
@torch.no_grad()
def test_temporal_conv_is_blocks_conv_blocks_mlp(
    grid: tuple[int, ...], padding: int, clip: tuple[int, int, int], steps: tuple[int, int, int]
) -> None:
    """``clip``: the grid after the last frame was repeated; rows and columns left over at the end take no part."""
    connector = shaken(TemporalConvConnector(dim=DIM, llm_dim=LLM, depth=2, width=8, padding=padding))
    given = features(*grid)
    expected = []
    for item in given.layers[-2]:
        frames = item.reshape(-1, *grid[-2:], DIM)
        before = torch.cat([connector.before(frame.permute(2, 0, 1)[None]) for frame in frames])
        before = torch.cat([before, before[-1:].repeat(clip[0] - len(before), 1, 1, 1)])
        out = convolved(before.transpose(0, 1), connector.sample, (2, 2, 2), padding)
        assert out.shape[1:] == steps
        after = torch.cat([connector.after(frame[None]) for frame in (out * torch.sigmoid(out)).unbind(1)])
        one, _, other = connector.mlp
        x = after.permute(0, 2, 3, 1).reshape(-1, 8) @ one.weight.T + one.bias
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        expected.append(x @ other.weight.T + other.bias)
    torch.testing.assert_close(connector(given), torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert connector.out_grid(grid) == steps


def test_temporal_conv_counts_of_the_paper() -> None:
    connector = TemporalConvConnector(dim=DIM, llm_dim=LLM, depth=0)
    assert connector.n_tokens((16, 27, 27)) == 1352
    assert TemporalConvConnector(dim=DIM, llm_dim=LLM, depth=0, padding=1).out_grid((16, 27, 27)) == (9, 14, 14)


def test_temporal_conv_sees_the_order_of_frames() -> None:
    """Two frames of one step swapped give something else; a mean over time would not."""
    connector = shaken(TemporalConvConnector(dim=DIM, llm_dim=LLM, depth=0))
    given = features(2, 2, 2)
    swapped = Features({-2: given.layers[-2].unflatten(1, (2, 4)).flip(1).flatten(1, 2)}, given.mask, given.grid)
    assert not torch.allclose(connector(given), connector(swapped), atol=1e-2)
    mean = bare(stride=[2, 2, 2])
    torch.testing.assert_close(mean(given), mean(swapped))


@pytest.mark.parametrize(
    ("words", "grid", "says"),
    [
        ({"downsample": [2, 2]}, None, r"downsample: \[2, 2\] must be \[time, rows, cols\]"),
        ({"padding": 2}, None, "padding: 2 must be 0 or 1"),
        ({"depth": -1}, None, "depth: -1 must be at least 0"),
        ({"depth": 0, "downsample": [2, 5, 2]}, (2, 4, 4), "leaves nothing"),
        ({"depth": 0}, (7,), r"this encoder gives \[7\]"),
    ],
)
def test_temporal_conv_refuses(words: dict[str, object], grid: tuple[int, ...] | None, says: str) -> None:
    with pytest.raises(MmllmError, match=says):
        connector = TemporalConvConnector(dim=DIM, llm_dim=LLM, **words)  # type: ignore[arg-type]
        assert grid is not None
        connector.out_grid(grid)
