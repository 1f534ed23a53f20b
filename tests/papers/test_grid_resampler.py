"""``grid_resampler``: the adapters of Qwen-VL and MiniCPM-V, against torch's own attention and the table's formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.projectors.grid_resampler import GridResamplerConnector, sines
from mmllm.errors import MmllmError
from mmllm.testing import check_projector
from mmllm.testing.tiny.weights import randomise
from mmllm.types import Features

DIM, LLM, WIDTH, HEADS = 6, 10, 16, 2


def table(rows: int, cols: int) -> Tensor:
    """Positions as they are written down: the first half of the channels is of the column."""
    found = torch.zeros(rows * cols, WIDTH)
    for row in range(rows):
        for col in range(cols):
            for i in range(WIDTH // 4):
                omega = 1 / 10000 ** (i / (WIDTH / 4))
                for half, place in enumerate((col, row)):
                    start = half * WIDTH // 2
                    found[row * cols + col, start + i] = math.sin(place * omega)
                    found[row * cols + col, start + WIDTH // 4 + i] = math.cos(place * omega)
    return found


def reference(connector: GridResamplerConnector, x: Tensor, of_queries: Tensor | float, of_patches: Tensor) -> Tensor:
    """The published steps for one picture float[T, DIM], with torch's multi-head attention."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        parts = (connector.to_query, connector.to_key, connector.to_value)
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        # the key's bias is any: it changes nothing
        attention.in_proj_bias.copy_(torch.cat([parts[0].bias, torch.ones(WIDTH), parts[2].bias]))
    attention.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(WIDTH, WIDTH)
    attention.out_proj.load_state_dict(connector.attended.state_dict())
    keys = connector.norm_features(x @ connector.input.weight.T)
    queries = connector.norm_queries(connector.queries) + of_queries
    found = attention(queries[None], (keys + of_patches)[None], keys[None], need_weights=False)[0][0]
    return connector.norm(found) @ connector.output.weight.T


def made(**words: Any) -> GridResamplerConnector:
    torch.manual_seed(0)
    connector = GridResamplerConnector(dim=DIM, llm_dim=LLM, grid=(2, 3), heads=HEADS, width=WIDTH, **words)
    randomise(connector)
    return connector.eval()


def of(*grid: int) -> Features:
    x = torch.randn(2, math.prod(grid), DIM, generator=torch.Generator().manual_seed(1))
    return Features({-1: x}, torch.ones(x.shape[:2], dtype=torch.bool), grid)


def test_the_table_is_the_formula() -> None:
    torch.testing.assert_close(sines(3, 4, WIDTH), table(3, 4))


@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (3, 5)])
@torch.no_grad()
def test_it_is_qwen_vls(grid: tuple[int, int]) -> None:
    connector, given = made(), of(*grid)
    stretched = nn.functional.interpolate(
        table(2, 3).reshape(1, 2, 3, WIDTH).permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False
    )
    stretched = stretched.permute(0, 2, 3, 1).reshape(-1, WIDTH)
    expected = [reference(connector, x, table(2, 3), stretched) for x in given.layers[-1]]
    torch.testing.assert_close(connector(given), torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert connector.out_grid(grid) == (1, 6)


@torch.no_grad()
def test_it_is_minicpm_vs() -> None:
    """Positions of patches alone, by their own rows and columns; tiles one by one."""
    connector, given = made(positions="counted", query_positions=False), of(2, 3, 5)
    assert connector.out_grid((2, 3, 5)) == (2, 1, 6)
    for item, found in zip(given.layers[-1], connector(given), strict=True):
        expected = [reference(connector, x, 0.0, table(3, 5)) for x in item.split(15)]
        torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_the_contract_holds_in_the_other_form() -> None:
    def maker(dim: int, llm_dim: int) -> GridResamplerConnector:
        return GridResamplerConnector(
            dim=dim, llm_dim=llm_dim, grid=(2, 2), heads=2, width=16, positions="counted", query_positions=False
        )

    check_projector(maker)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"grid": (4,)}, r"grid: \[4\] must be \[rows, cols\]"),
        ({"heads": 3}, r"heads \(3\) and 4 must divide the width \(16\)"),
        ({"positions": "own"}, "positions: 'own' is unknown; known: stretched, counted"),
    ],
)
def test_what_it_refuses(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        GridResamplerConnector(**{"dim": DIM, "llm_dim": LLM, "width": WIDTH, "heads": HEADS, **words})
    with pytest.raises(MmllmError, match=r"reads maps of rows and columns, and its encoder's grid is \[7\]"):
        made().out_grid((7,))
