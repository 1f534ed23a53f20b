"""What every test runs under: no network, one thread per process (pytest-xdist gives each core its own process)."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mmllm.generation.generator import Generator

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Set here, before any test module imports torch or transformers: both read them once, at import.
os.environ.update(OFFLINE)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what is imported stays: a fifth of the time that it took went into looking for garbage
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and only of what tests make: each full collection would walk all libraries."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let all go at the end: what is frozen then counts as leaked, and libraries say so on standard error."""
    gc.unfreeze()


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A random LLM that sees pictures; modules that need another one have a fixture of this name."""
    from tests.support.serving import tiny_generator

    return tiny_generator()
