"""A run whose encoder, connector and LLM all come out of one published VLM's folder: trained, stopped, loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmllm.checkpoints.load import load_run
from mmllm.cli import main
from tests.support.vlms import vlm_folder

pytestmark = pytest.mark.slow
RECIPE = """
llm: {path: vlm, dtype: float32, context: 100, template: chatml}
encoders:
  image: {type: hf_vision, model: vlm, layers: [-2]}
connectors:
  image: {type: mlp, from: image, start: vlm}
  inner: {type: lora, rank: 2, when: [image]}
data:
  rows: {type: chat_jsonl, path: rows.jsonl, media: .}
stages:
  align: {train: {connectors.image: 1.0e-3}, data: {rows: 1.0}, steps: 2, batch: 2, log_every: 1}
  adapt: {train: {connectors.inner: 1.0e-3}, data: {rows: 1.0}, steps: 1, batch: 2, log_every: 1}
"""


def test_all_parts_out_of_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    Image.new("RGB", (40, 30), "red").save("red.png")
    row = {"messages": [{"role": "user", "content": "<image>\nWhich?"}, {"role": "assistant", "content": "red"}]}
    Path("rows.jsonl").write_text((json.dumps({**row, "image": ["red.png"]}) + "\n") * 4)
    Path("mine.yaml").write_text(RECIPE)
    assert main(["train", "mine.yaml"]) == 0
    published = load_file(folder / "model.safetensors")["multi_modal_projector.linear_1.weight"]
    recipe, model = load_run(Path("runs/mine"), "cpu")
    moved = (model.connectors["image"].mlp[0].weight - published).abs().max()
    assert 0 < moved < 0.01  # two steps away from where it started
    assert recipe.connectors["image"].start is not None and recipe.llm.template == "chatml"
    recipe, first = load_run(Path("runs/mine"), "cpu", stage="align")
    assert torch.equal(first.connectors["image"].mlp[0].weight, model.connectors["image"].mlp[0].weight)
