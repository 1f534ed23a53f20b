"""A folder of its own for each test of what `mmllm check` opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checked import Checked, write


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    """A right recipe with all that it names; no cache of the hub."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Checked(tmp_path, capsys)
