"""A trained run, and a copy of it for each test that changes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.training import finish, start, tiny_recipe, train_here


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parts, the data, the recipe and the trained run of the tiny recipe."""
    folder = tmp_path_factory.mktemp("trained")
    assert finish(start(train_here, tiny_recipe(folder), folder / "run")) == [0]
    return folder


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of all of it whose recipes name nothing outside, by relative paths."""
    home = Path(shutil.copytree(trained, tmp_path / "home"))
    for path in (home / "recipe.yaml", home / "run" / "recipe.yaml"):
        path.write_text(path.read_text().replace(f"{trained}/", "").replace(f"media: {trained}", "media: ."))
    return home
