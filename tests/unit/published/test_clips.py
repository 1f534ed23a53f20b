"""Clips of imported models in use: asked about, trained with pictures beside them, and asked as a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import mmllm
from mmllm.checkpoints.store import LEARNED
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError
from mmllm.published.importing import import_checkpoint
from mmllm.testing.tiny.encoders import clip
from mmllm.testing.tiny.published import published_folder
from tests.support.training import train_here

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.mark.parametrize("kind", ["LlavaOnevision", "Qwen3VL"])
def test_pictures_and_clips_train_one_projector(kind: str, tmp_path: Path) -> None:
    """Both teach the same weights; a run holds them once, and answers about a clip by them."""
    import_checkpoint(str(published_folder(kind, tmp_path / "vlm")), tmp_path / "run")
    words = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert words["connectors"]["video"]["shares"] == "image"
    rows = []
    for colour, values in COLOURS.items():
        Image.new("RGB", (60, 50), values).save(tmp_path / f"{colour}.png")
        (tmp_path / f"{colour}.mp4").write_bytes(clip(values, 3))
        for key, name in (("image", f"{colour}.png"), ("video", f"{colour}.mp4")):
            rows.append({key: name, "question": "What colour?", "answer": colour})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 2, "batch": 4}
    words |= {"stages": {"both": stage}}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    train_here(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    learned = load_file(tmp_path / "run" / "stages" / "both" / "step-2" / LEARNED)
    assert all(name.startswith("connectors.image.") for name in learned)
    before = mmllm.load(tmp_path / "run", stage="imported").model
    after = mmllm.load(tmp_path / "run")
    for name, tensor in before.connectors["video"].named_parameters():
        assert not torch.equal(tensor, learned[f"connectors.image.{name}"])
        assert torch.equal(after.model.connectors["video"].get_parameter(name), learned[f"connectors.image.{name}"])
    for model in (before, after.model):
        towers = [model.encoders["image"], model.encoders["video"]]
        inner = [getattr(one, "image", one) for one in towers]
        pairs = zip(inner[0].parameters(), inner[1].parameters(), strict=True)
        assert all(one is other for one, other in pairs), "the tower is there once"
    assert after.chat("What colour?", video=tmp_path / "red.mp4", max_new_tokens=3)
    questions = [row for row in rows if "video" in row]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    asked = {"qa_json": {"path": str(tmp_path / "questions.json"), "metric": "exact_match"}}
    assert mmllm.evaluate(after, asked)["benchmarks"]["qa_json"]["n"] == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spatial_pool_mode": "conv"}, "pools its frames by conv, with weights that no connector here has"),
        ({"spatial_pool_stride": 4}, "announces a quarter of a frame's 4 x 4 patches whatever spatial_pool_stride is"),
    ],
)
def test_frames_that_no_connector_pools(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    folder = published_folder("LlavaNextVideo", tmp_path / "vlm", **changes)
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "tower", "sentence"),
    [
        ("LlavaNextVideo", "video", "LLaVA-NeXT-Video, which has one tower for pictures and clips; leave `tower` out"),
        ("VideoLlava", "image", 'tower: "image" is unknown; known: video'),
    ],
)
def test_towers_that_are_none(kind: str, tower: str, sentence: str, tmp_path: Path) -> None:
    folder = published_folder(kind, tmp_path / "vlm")
    with pytest.raises(MmllmError, match=sentence):
        HfVisionEncoder(model=str(folder), tower=tower)
