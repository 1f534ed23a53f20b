"""The run that tests of GGUF write, made once for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gguf_runs import assembled


@pytest.fixture(scope="session")
def gguf_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`assembled`."""
    return assembled(tmp_path_factory.mktemp("gguf"))
