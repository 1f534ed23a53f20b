"""A server over the module's ``generator`` and under its ``limits``, in this process and on a port."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from tests.support.serving import LIMITS, MODEL, local, running


@pytest.fixture(scope="module")
def limits() -> Limits:
    """Of requests; modules that need others have a fixture of this name."""
    return LIMITS


@pytest.fixture(scope="module")
def http(generator: Generator, limits: Limits) -> Iterator[TestClient]:
    """A client of the server in this process."""
    with local(create_app(generator, MODEL, limits), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def address(generator: Generator, limits: Limits) -> Iterator[str]:
    """Where the server listens."""
    with running(create_app(generator, MODEL, limits)) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as one:
        yield one
