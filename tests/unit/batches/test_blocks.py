"""Datasets whose samples lie in blocks: every sample once an epoch, blocks read one after the other, alone or mixed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mmllm.batches.mixture import WINDOW, Mixture


class Blocked:
    """So many samples in blocks."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = list(blocks)

    def __len__(self) -> int:
        return sum(self.blocks)


def drawn(mixture: Mixture, name: str) -> list[int]:
    steps = (mixture.step(k) for k in range(mixture.n_steps))
    return [index for step in steps for key, index in step if key == name]


BLOCKS = [300] * 10 + [77]


@pytest.mark.parametrize("beside", [False, True])
def test_every_sample_once_and_a_window_of_blocks_at_a_time(beside: bool) -> None:
    sources = {"a": Blocked(BLOCKS), **({"b": range(500)} if beside else {})}
    mixture = Mixture(sources, dict.fromkeys(sources, 1.0), 3, batch=32, epochs=2)
    found = drawn(mixture, "a")
    n = sum(BLOCKS)
    for epoch in (found[:n], found[n:]):
        assert sorted(epoch) == list(range(n))
        met = [len({index // 300 for index in epoch[start : start + 64]}) for start in range(0, n, 64)]
        # neighbours in time come from the blocks of one window, at its borders (there are three windows) of two
        assert sorted(met)[-3] <= -(-WINDOW // 300) + 1 < len(BLOCKS)
        assert epoch != sorted(epoch)
    assert found[:n] != found[n:]


def test_an_order_is_the_same_from_any_step_on() -> None:
    sources = {"a": Blocked(BLOCKS), "b": range(500)}
    one, two = (Mixture(sources, {"a": 0.5, "b": 1.0}, 3, batch=32, epochs=3) for _ in range(2))
    whole = [one.step(k) for k in range(one.n_steps)]
    assert [two.step(k) for k in reversed(range(two.n_steps))] == whole[::-1]


def test_weights_count_over_epochs() -> None:
    mixture = Mixture({"a": Blocked([10, 10])}, {"a": 0.5}, 0, batch=10, epochs=2)
    assert sorted(drawn(mixture, "a")) == list(range(20))


def test_one_window_is_shuffled_whole() -> None:
    mixture = Mixture({"a": Blocked([5] * 20)}, {"a": 1.0}, 0, batch=100, epochs=1)
    first = drawn(mixture, "a")[:5]
    assert len({index // 5 for index in first}) > 1
