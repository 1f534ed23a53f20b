"""What holds for each benchmark in the registry, seen through a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm import registry
from mmllm.testing import check_benchmark
from mmllm.testing.tiny.benchmarks import FOLDER_IS_THE_DATA, TINY

NAMES = sorted(registry.table("benchmarks"))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark(name: str) -> None:
    check_benchmark(TINY[name], folder_is_the_data=name in FOLDER_IS_THE_DATA)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_bears_its_registered_name(name: str, tmp_path: Path) -> None:
    benchmark = TINY[name](tmp_path)
    assert benchmark.name == name and registry.load("benchmarks", name) is type(benchmark)
