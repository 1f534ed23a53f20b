"""Published models whose tiles are stitched: what contradicts itself is refused by a sentence, parts can be swapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmllm
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder


def change(file: Path, **words: Any) -> None:
    """Change words of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | words))


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    folder = published_folder("LlavaNext", tmp_path / "next")
    with pytest.raises(MmllmError, match=r"\(LLaVA-NeXT\) always cuts pictures, .* leave --no-tiles out"):
        import_checkpoint(str(folder), tmp_path / "run", tiles=False)
    change(folder / "config.json", image_grid_pinpoints=[[28, 56], [56, 28]])
    sentence = r"of its configuration \(\[28, 56\], \[56, 28\]\) are not those of its image processor \(.* and 1 more\)"
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")
    folder = published_folder("LlavaOnevision", tmp_path / "onevision")
    change(folder / "config.json", vision_aspect_ratio="anyres_max_4")
    with pytest.raises(MmllmError, match=r"\(anyres_max_4\) and of its processor \(anyres_max_9\) must be the same"):
        import_checkpoint(str(folder), tmp_path / "run")
    folder = published_folder("LlavaNext", tmp_path / "less", vision_feature_select_strategy="full")
    with pytest.raises(MmllmError, match="gives its LLM the tower's class token as well"):
        import_checkpoint(str(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_imported_run_can_be_looked_at_and_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words are checked and shown; with another projector and without a newline per row it still answers."""
    published_folder("LlavaOnevision", tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    words = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert words["connectors"]["image"]["stitch"] == {"newline": "row", "unpad": True, "most": 9}
    assert words["encoders"]["image"]["several"] == "whole"
    model = mmllm.load("run")
    both = [picture(90, 50), picture(50, 120)]
    assert model.chat("What?", image=both, max_new_tokens=3) and model.chat("What?", image=both[:1], max_new_tokens=3)
    picture(300, 90).save("sign.png")
    picture(50, 50).save("door.png")
    rows = []
    for shown in (["sign.png"], ["sign.png", "door.png"]):
        asked = {"role": "user", "content": "<image>" * len(shown) + "What?"}
        rows.append({"messages": [asked, {"role": "assistant", "content": "A sign."}], "image": shown})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words["connectors"]["image"] |= {"type": "pool", "grid": [2, 2], "stitch": {"newline": "end"}}
    words |= {"name": "more", "data": {"rows": {"type": "chat", "path": "rows.jsonl"}}}
    words["stages"] = {"one": {"train": {"connectors.image": 1e-2}, "data": {"rows": 1.0}, "steps": 1, "batch": 1}}
    Path("more.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    assert main(["check", "more.yaml"]) == 0 and main(["inspect", "more.yaml"]) == 0
    assert "2 x 6 tiles and all of it" in capsys.readouterr().out
    assert main(["plan", "more.yaml"]) == 0
    capsys.readouterr()
    # one alone and the same one beside another are two items
    for computed in (3, 0):
        assert main(["cache", "more.yaml", "stages.one.cache={dir: store}"]) == 0
        assert f"{computed} items computed, 3 are kept" in capsys.readouterr().out
    words["connectors"]["image"]["stitch"] = {"newline": "rows"}
    Path("more.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    assert main(["check", "more.yaml"]) == 2
    assert "stitch.newline" in capsys.readouterr().err
