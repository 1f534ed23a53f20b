"""window_resampler: windows are independent, padding is never read, lengths follow the sound."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmllm.connectors.projectors.window_resampler import WindowResamplerConnector
from mmllm.errors import MmllmError
from mmllm.testing.tiny.projectors import TINY
from mmllm.types import Features

DIM = 16


@pytest.fixture
def connector() -> WindowResamplerConnector:
    torch.manual_seed(0)
    return WindowResamplerConnector(dim=DIM, llm_dim=8, window=3, queries=2, heads=2, width=12)


def ragged(*times: int, rest: tuple[int, ...] = (), padding: float = 0.0) -> Features:
    """Items of these lengths in one batch; what pads them has this value."""
    generator = torch.Generator().manual_seed(1)
    per = torch.Size(rest).numel()
    layer = torch.full((len(times), max(times) * per, DIM), padding)
    mask = torch.zeros(layer.shape[:2], dtype=torch.bool)
    for row, time in enumerate(times):
        layer[row, : time * per] = torch.randn(time * per, DIM, generator=generator)
        mask[row, : time * per] = True
    return Features({-1: layer}, mask, (max(times), *rest), tuple((time, *rest) for time in times))


def test_lengths_at_every_remainder(connector: WindowResamplerConnector) -> None:
    for time, windows in ((1, 1), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3)):
        assert connector.out_grid((time,)) == (windows, 1, 2) and connector.n_tokens((time,)) == 2 * windows
        assert connector(ragged(time)).shape == (1, 2 * windows, 8)


@pytest.mark.parametrize("rest", [(), (2,), (2, 2)])
def test_items_of_all_lengths_at_once_are_as_alone(connector: WindowResamplerConnector, rest: tuple[int, ...]) -> None:
    times = (7, 1, 3, 5)
    features = ragged(*times, rest=rest)
    together = connector(features)
    for row, time in enumerate(times):
        alone = connector(features.only(torch.tensor([row]), (time, *rest)))
        own = connector.n_tokens((time, *rest))
        torch.testing.assert_close(together[row, :own], alone[0], rtol=1e-5, atol=1e-6)
        assert (together[row, own:] == 0).all()


def test_what_pads_is_never_read(connector: WindowResamplerConnector) -> None:
    clean, dirty = ragged(7, 1, 5), ragged(7, 1, 5, padding=1e4)
    assert torch.equal(connector(clean), connector(dirty))


def test_a_window_says_nothing_of_the_others(connector: WindowResamplerConnector) -> None:
    features = ragged(9)
    before = connector(features)
    features.layers[-1][0, 3:6] *= torch.linspace(-2, 2, DIM)
    after = connector(features)
    torch.testing.assert_close(before[0, [0, 1, 4, 5]], after[0, [0, 1, 4, 5]], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(before[0, 2:4], after[0, 2:4], atol=1e-3)


def test_queries_differ_and_talk_to_each_other() -> None:
    torch.manual_seed(0)
    two = WindowResamplerConnector(dim=DIM, llm_dim=8, window=3, queries=2, heads=2)
    out = two(ragged(3))
    assert not torch.allclose(out[0, 0], out[0, 1])
    with torch.no_grad():
        two.queries[1] += 1.0
    assert not torch.equal(two(ragged(3))[0, 0], out[0, 0])
    single = WindowResamplerConnector(dim=DIM, llm_dim=8, heads=2)
    assert single.n_tokens((18,)) == 2 and not len(single.among)


@pytest.mark.parametrize("words", [{"window": 0}, {"queries": 0}, {"depth": 0}, {"heads": 3}, {"width": 0}])
def test_wrong_numbers_are_one_sentence(words: dict[str, int]) -> None:
    with pytest.raises(MmllmError, match="window_resampler"):
        WindowResamplerConnector(dim=DIM, llm_dim=8, **words)


def test_it_learns_an_order_within_a_window() -> None:
    """Which of two sounds came first: features that carry their position tell it through one query."""
    torch.manual_seed(0)
    connector = TINY["window_resampler"].make(DIM, SimpleNamespace(dim=2))
    optimizer = torch.optim.Adam(connector.parameters(), lr=5e-3)
    first = torch.randint(0, 2, (64,))
    layer = 0.1 * torch.randn(64, 3, DIM)
    layer[:, 0, 0], layer[:, 2, 1] = 4.0 * first - 2, 2 - 4.0 * first
    features = Features({-1: layer}, torch.ones(64, 3, dtype=torch.bool), (3,))
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(connector(features)[:, 0], first)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (connector(features)[:, 0].argmax(-1) == first).float().mean() > 0.95
