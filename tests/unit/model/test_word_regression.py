"""``start: words``: the ridge regression behind it, against scikit-learn's, and what it finds by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from mmllm.errors import MmllmError
from mmllm.model.word_regression import PENALTIES, WordRegression


def rows(n: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs float[n, 12] of unlike channels, targets float[n, 5], and the map behind them float[12, 5]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=generator) * torch.linspace(0.1, 3, 12) + 2
    way = torch.randn(12, 5, generator=generator)
    return x, x @ way + 1 + noise * torch.randn(n, 5, generator=generator), way


def test_it_is_the_best_of_scikit_learns_ridges_by_generalised_cross_validation() -> None:
    x, y, _ = rows(40, 2.0)
    layer = nn.Linear(12, 5)
    fit = WordRegression(layer)
    for part in (slice(0, 1), slice(1, 15), slice(15, 40)):  # as items come
        fit.add(x[part], y[part])
    explained = fit.solve()
    centred = (x - x.mean(0)).double().numpy()
    values = np.linalg.eigvalsh(centred.T @ centred)
    found = []
    for share in PENALTIES:
        penalty = share * values.mean()
        ridge = Ridge(alpha=penalty).fit(x.double().numpy(), y.double().numpy())
        error = ((ridge.predict(x.double().numpy()) - y.double().numpy()) ** 2).sum()
        found.append((error / (len(x) - 1 - (values / (values + penalty)).sum()) ** 2, ridge))
    best = min(found, key=lambda pair: pair[0])[1]
    torch.testing.assert_close(layer.weight.double(), torch.from_numpy(best.coef_), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias.double(), torch.from_numpy(best.intercept_), rtol=1e-4, atol=1e-4)
    assert 0 < explained < 1


def test_what_can_be_known_is_found_and_noise_is_not_explained() -> None:
    x, y, way = rows(60, 0.0)
    layer = nn.Linear(12, 5)
    fit = WordRegression(layer)
    fit.add(x, y)
    assert fit.solve() > 0.999
    torch.testing.assert_close(layer.weight, way.T, rtol=1e-3, atol=1e-3)
    noise = WordRegression(nn.Linear(12, 5))
    noise.add(x, torch.randn(60, 5, generator=torch.Generator().manual_seed(1)))
    assert noise.solve() < 0.1


def test_a_layer_without_a_bias_goes_through_zero() -> None:
    x, y, way = rows(60, 0.0)
    layer = nn.Linear(12, 5, bias=False)
    fit = WordRegression(layer)
    fit.add(x, y - 1)
    fit.solve()
    torch.testing.assert_close(layer.weight, way.T, rtol=1e-3, atol=1e-3)


def test_answers_that_are_all_alike_are_refused() -> None:
    x, y, _ = rows(20, 0.0)
    fit = WordRegression(nn.Linear(12, 5))
    fit.add(x, y[:1].expand(20, 5))
    with pytest.raises(MmllmError, match="all alike"):
        fit.solve()
