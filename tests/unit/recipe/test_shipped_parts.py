"""The miniature parts that come with mmllm, put below the current folder where a recipe names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.shipped_parts import place_parts
from mmllm.serving.page import page_command
from tests.support.places import ROOT

SAID = "copied into the current folder from the miniature parts that come with mmllm"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(path: Path) -> dict[str, bytes]:
    """Name -> content of the files of a folder."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_parts_are_copied_once_and_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "mini/demo", "my.yaml"]) == 0
    assert capsys.readouterr() == ("my.yaml\n", f"mmllm: data/mini/lm, data/mini/clip: {SAID}.\n")
    assert sorted(path.name for path in (here / "data" / "mini").iterdir()) == ["clip", "lm"]
    assert files(here / "data/mini/clip") == files(ROOT / "data/mini/clip")
    assert main(["cp", "mini/swap_encoder", "."]) == 0
    assert capsys.readouterr() == ("swap_encoder.yaml\n", f"mmllm: data/mini/vit: {SAID}.\n")


def test_a_part_of_ones_own_stays(here: Path) -> None:
    (here / "data/mini/lm").mkdir(parents=True)
    assert place_parts(load_recipe(folder() / "mini/demo.yaml")) == f"data/mini/clip: {SAID}"
    assert files(here / "data/mini/lm") == {}


def test_encoders_inside_encoders_are_seen() -> None:
    assert place_parts(load_recipe(folder() / "mini/video.yaml")) == f"data/mini/lm, data/mini/vit: {SAID}"


def test_a_full_size_recipe_brings_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "image_pool", "."]) == 0
    assert capsys.readouterr() == ("image_pool.yaml\n", "")
    assert [path.name for path in here.iterdir()] == ["image_pool.yaml"]


def test_train_brings_what_an_override_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmllm.training.launch.launch", lambda *words, **named: 0)
    assert main(["train", "image_pool", "llm.path=data/mini/lm"]) == 0
    assert capsys.readouterr().err == f"mmllm: data/mini/lm: {SAID}.\n"


def test_where_nothing_can_be_written(here: Path) -> None:
    (here / "data").touch()
    with pytest.raises(MmllmError, match=r"^data/mini/lm, a miniature part of the recipe, cannot be copied there: "):
        place_parts(load_recipe(folder() / "mini/demo.yaml"))


def test_the_pages_command_is_typed_where_the_user_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_command() == f"streamlit run {ROOT / 'streamlit_app.py'}"
    monkeypatch.chdir(ROOT)
    assert page_command("http://127.0.0.1:9") == "MMLLM_SERVER=http://127.0.0.1:9 streamlit run streamlit_app.py"
