"""What is loaded of a run that was trained: the last stage, or what is left of it, and why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.store import (
    LEARNED,
    MANIFEST,
    read_tensors,
)
from mmllm.errors import CheckpointError
from tests.support.training import edit_manifest, finish, flip, start, tiny_recipe, train_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the tiny recipe, trained."""
    folder = tmp_path_factory.mktemp("trained")
    assert finish(start(train_here, tiny_recipe(folder), folder / "run")) == [0]
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_load_run_gives_the_last_stage(run: Path) -> None:
    recipe, model = load_run(run)
    learned = read_tensors(run / "stages" / "instruct" / "step-4" / LEARNED)
    own = dict(model.named_parameters())
    assert recipe.name == "tiny" and not model.training
    assert learned and all(torch.equal(own[name], tensor) for name, tensor in learned.items())
    _, aligned = load_run(run, stage="align")
    before = dict(aligned.named_parameters())
    assert all(not torch.equal(before[name], tensor) for name, tensor in learned.items() if name.endswith("weight"))


def test_a_checkpoint_holds_what_learned_and_nothing_to_unpickle(run: Path) -> None:
    for path in run.rglob("step-*/*"):
        assert path.suffix in (".safetensors", ".json")
    names = list(read_tensors(run / "stages" / "align" / "step-4" / LEARNED))
    assert names and {".".join(name.split(".")[:2]) for name in names} == {"connectors.image", "connectors.lora"}
    manifest = json.loads((run / "stages" / "align" / "step-4" / MANIFEST).read_text())
    assert sorted(manifest["frozen"]) == ["encoders.image", "llm"] and manifest["final"]


def test_load_run_falls_back_and_says_why(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip(run / "stages" / "instruct" / "step-4" / LEARNED)
    load_run(run)
    assert "stage instruct: skipped step-4" in caplog.text and "sha256" in caplog.text
    shutil.rmtree(run / "stages" / "instruct" / "step-2")
    shutil.rmtree(run / "stages" / "align")
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be used \(stage instruct: skipped step-4"):
        load_run(run)


def test_load_run_refuses_other_frozen_weights(run: Path) -> None:
    path = run / "stages" / "instruct" / "step-4" / MANIFEST
    edit_manifest(path, frozen={**json.loads(path.read_text())["frozen"], "llm": "0" * 64})
    with pytest.raises(CheckpointError, match=r"step-4 was trained on other weights of llm than"):
        load_run(run)


def test_load_run_of_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run folder: it has no recipe.yaml"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no stage 'tune'; its stages are align, instruct"):
        load_run(run, stage="tune")
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(CheckpointError, match=r"trained with another recipe"):
        load_run(run)
