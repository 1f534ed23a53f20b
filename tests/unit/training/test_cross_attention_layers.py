"""New cross-attention blocks in an LLM: they learn, go on bit for bit where they stopped, and it answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import mmllm
from mmllm.checkpoints.store import LEARNED
from tests.support.training import edit, metrics, sharing, tiny_recipe, train_here


def test_new_blocks_learn_resume_and_answer(tmp_path: Path) -> None:
    """Pictures and text mixed, conversations about one picture sharing their beginning, blocks recomputed."""
    words = {"save_every": 2, "gradient_checkpointing": True, "train": {"connectors.image": 3e-2}}
    recipe = tiny_recipe(tmp_path, **words)
    edit(
        recipe,
        "connectors",
        value={"image": {"type": "cross_attention_layers", "from": "image", "every": 2, "mlp_width": 16}},
    )
    edit(recipe, "stages", value={"align": yaml.safe_load(recipe.read_text())["stages"]["align"]})
    train_here(recipe, tmp_path / "run", sharing(tmp_path, "align"))
    stages = tmp_path / "run" / "stages" / "align"
    whole = load_file(stages / "step-4" / LEARNED)
    gates = [tensor for name, tensor in whole.items() if name.endswith("_gate")]
    assert len(gates) == 4 and all(gate.abs() > 1e-3 for gate in gates)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"]

    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "stages" / "align" / "step-4")
    train_here(recipe, tmp_path / "stopped", sharing(tmp_path, "align"))
    again = load_file(tmp_path / "stopped" / "stages" / "align" / "step-4" / LEARNED)
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    assert metrics(tmp_path / "stopped")[-2:] == lines[-2:]

    model = mmllm.load(tmp_path / "run")
    answers = {model.chat("What is on sign 1?", image=Image.new("RGB", (28, 28), colour)) for colour in ("red", "navy")}
    assert all(answers) and model.chat("How many are 2?")
