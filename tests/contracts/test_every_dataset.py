"""What holds for every registered dataset, seen through a tiny one: a new dataset is tested by being listed."""

from __future__ import annotations

import pytest

from mmllm import registry
from mmllm.testing import check_dataset
from mmllm.testing.tiny.datasets import TINY

NAMES = sorted(registry.table("datasets"))


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset(name: str) -> None:
    check_dataset(TINY[name])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name: str) -> None:
    assert registry.summary("datasets", name)
    assert "path" in registry.parameters("datasets", name)
