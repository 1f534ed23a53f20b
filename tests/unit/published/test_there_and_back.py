"""A run is written again as it was imported: in tiles, or with pictures whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.exporting.export import export_run
from mmllm.published.importing import import_checkpoint
from mmllm.testing.tiny.published import published_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "tiles"), [("Lfm2Vl", True), ("Lfm2Vl", False), ("Ovis2", False), ("Idefics2Splitting", False)]
)
def test_tiles_or_whole(name: str, tiles: bool, tmp_path: Path) -> None:
    published_folder(name, tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run", tiles=tiles)
    assert all(stage.equal for stage in export_run(tmp_path / "run", "hf", tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").is_file()
