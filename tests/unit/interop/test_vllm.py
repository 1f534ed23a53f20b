"""The plugin for vLLM: it is found by its name, and vLLM's engine answers as the run does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from base64 import b64encode
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mmllm
from mmllm.exporting.export import export_run
from mmllm.generation.sampling import Sampling
from mmllm.model.build import build
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.llms import tiny_llm_folder
from tests.support.training import tiny_recipe

ROOT = Path(__file__).parents[3]


def test_its_entry_point_is_a_function_that_registers() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = points["vllm.general_plugins"]["mmllm"].partition(":")
    assert callable(getattr(import_module(module), name))


def shown(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"}}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_vllm_answers_as_the_run_does(family: str, tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    llm = tiny_llm_folder(tmp_path, family, head_dim=32)  # vLLM's attention on CPUs takes no smaller one
    # with the new tokens the LLM's table has 384 rows, so that the picture's own lies behind its end
    recipe = load_recipe(path, [f"llm.path={llm}", 'llm.tokens=["<loc{00..16}>"]'])
    model = build(recipe, "cpu")
    torch.manual_seed(0)
    for weight in (*model.connectors.parameters(), *model.llm.tokens.parameters()):
        torch.nn.init.normal_(weight, std=0.1)
    mmllm.Model(model, recipe).save_pretrained(tmp_path / "run")
    export_run(tmp_path / "run", "vllm", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_token_id"] == 384

    one, other = picture(333, 250), picture(61, 90)
    contents = [
        [shown(one), said("What is on it?")],
        [said("On this:"), shown(other), said("what is <loc03>?")],
        [shown(other), shown(one), said("Which is it?")],
        "Nothing is shown.",
    ]
    talks = [[{"role": "user", "content": content}] for content in contents]
    talks.append([*talks[0], {"role": "assistant", "content": "A circle."}, {"role": "user", "content": "And now?"}])
    typed = [{"role": "user", "content": "What does <image> mean?"}]  # a place of no picture to vLLM
    command = [sys.executable, "-m", "tests.support.vllm_engine", str(tmp_path / "out")]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        command, input=json.dumps([*talks, typed]), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *found, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"prompt')]
    run = mmllm.load(tmp_path / "run", "cpu")
    encoded = [run.encode(talk) for talk in talks]
    expected = run.generator.complete(encoded, Sampling(max_new_tokens=8))
    assert len(found) == len(talks)
    for theirs, ours, answer in zip(found, encoded, expected, strict=True):
        ids = list(ours.ids)
        for span in ours.spans:
            ids[span.start : span.start + span.length] = [384] * span.length
        assert theirs["prompt"] == ids
        assert theirs["text"] == answer.text
    assert len({one["text"] for one in found}) > 2, "the pictures change nothing"
    assert last["said"], "the engine stopped at a typed mark"
