"""``norm: calibrated``: gain and bias from items, per channel and between items; where it may stand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mmllm.connectors.layers.basics import LEAST_SPREAD, CalibratedNorm, norm_of
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.errors import MmllmError


def items(n: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """float[n, tokens, 6]: channels of unlike sizes, of which the first two say nothing; places differ."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, tokens, 6, generator=generator) * torch.tensor([0.01, 0.02, 1.0, 1.5, 2.0, 3.0])
    return drawn + torch.tensor([40.0, -30.0, 0.0, 1.0, 2.0, 0.0]) + torch.arange(tokens)[:, None]


def test_channels_leave_it_with_mean_0_and_deviation_1_between_items() -> None:
    norm = norm_of("calibrated", 6, 1e-5)
    assert isinstance(norm, CalibratedNorm)
    x = items(200, 3)
    norm.calibrate(list(x))
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(6), rtol=0, atol=1e-3)
    # at the same token: what differs from token to token is the same in all items
    spread = (y - y.mean(0)).square().mean((0, 1)).sqrt()
    torch.testing.assert_close(spread[2:], torch.ones(4), rtol=1e-3, atol=1e-3)
    assert bool((spread < 1.01).all())  # none is blown up


def test_items_of_unlike_length_are_taken_together() -> None:
    norm = CalibratedNorm(6)
    rows = [items(1, n, seed)[0] for seed, n in enumerate([2, 5, 3, 4])]
    norm.calibrate(rows)
    y = torch.cat([norm(row) for row in rows])
    torch.testing.assert_close(y.mean(0), torch.zeros(6), rtol=0, atol=1e-3)


def test_a_channel_that_hardly_differs_is_not_blown_up() -> None:
    norm = CalibratedNorm(6)
    x = items(50, 1)
    norm.calibrate(list(x))
    plain = functional.layer_norm(x, (6,))
    spread = (plain - plain.mean(0)).square().mean((0, 1)).sqrt()
    least = max(LEAST_SPREAD * float(spread.median()), float(spread.min()))
    assert float(norm.weight.detach().max()) == pytest.approx(1 / least)


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(MmllmError, match="all alike"):
        CalibratedNorm(6).calibrate([items(1, 2)[0]] * 3)
    with pytest.raises(MmllmError, match="norm_after: true"):
        PoolConnector(dim=6, llm_dim=4, norm="calibrated")
    with pytest.raises(MmllmError, match="calibrated, false"):
        MlpConnector(dim=6, llm_dim=4, norm="calibrate")
