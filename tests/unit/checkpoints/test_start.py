"""``start:`` from another run: of a whole recipe and of a connector, a stage of it, and what cannot be taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.start import start_weights
from mmllm.checkpoints.store import LEARNED, read_tensors
from mmllm.errors import RecipeError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.start import Started
from mmllm.recipe.load import load_recipe
from tests.support.training import STAGES, finish, metrics, start, tiny_recipe, train_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny recipe and its run."""
    folder = tmp_path_factory.mktemp("trained")
    assert finish(start(train_here, tiny_recipe(folder), folder / "run")) == [0]
    return folder


def begun(trained: Path, *overrides: str) -> tuple[MultimodalLM, dict[str, Started]]:
    recipe = load_recipe(trained / "recipe.yaml", overrides)
    model = build(recipe, "cpu")
    return model, start_weights(model, recipe)


def learned(trained: Path, stage: str = "instruct") -> dict[str, torch.Tensor]:
    return read_tensors(trained / "run" / "stages" / stage / "step-4" / LEARNED)


def equal(model: MultimodalLM, tensors: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return bool(tensors) and all(torch.equal(own[name], tensor) for name, tensor in tensors.items())


def test_a_recipe_starts_from_another_run(trained: Path) -> None:
    model, found = begun(trained, f"start={trained / 'run'}")
    assert equal(model, learned(trained)) and set(found["start"].taken) == set(learned(trained))
    model, _ = begun(trained, f"start={json.dumps({'path': str(trained / 'run'), 'stage': 'align'})}")
    assert equal(model, learned(trained, "align")) and not equal(model, learned(trained))


def test_what_has_no_place_is_left_and_what_is_new_is_drawn(trained: Path) -> None:
    plain = build(load_recipe(trained / "recipe.yaml"), "cpu").state_dict()
    more = "connectors={image: {type: mlp, from: image}, fresh: {type: lora, rank: 2}}"
    stages = "stages={align: {train: {connectors.image: 1.0e-3}, data: {pictures: 1.0}, steps: 1, batch: 1}}"
    model, found = begun(trained, f"start={trained / 'run'}", more, stages)
    taken = {name: tensor for name, tensor in learned(trained).items() if name.startswith("connectors.image.")}
    assert equal(model, taken) and set(found["start"].taken) == set(taken)
    assert found["start"].left == tuple(sorted(name for name in learned(trained) if name not in taken))
    assert any(name.startswith("connectors.fresh.") for name in model.state_dict()) and plain


def test_a_connector_starts_from_a_run(trained: Path) -> None:
    model, found = begun(trained, f"connectors.image.start={trained / 'run'}")
    own = {name: tensor for name, tensor in learned(trained).items() if name.startswith("connectors.image.")}
    assert equal(model, own) and list(found) == ["connectors.image.start"]
    other = {name: tensor for name, tensor in learned(trained).items() if name.startswith("connectors.lora.")}
    assert not equal(model, other)
    place = {"path": str(trained / "run"), "prefix": "connectors.image."}
    swapped = f"connectors={json.dumps({'picture': {'type': 'mlp', 'from': 'image', 'start': place}})}"
    stages = "stages={align: {train: {connectors.picture: 1.0e-3}, data: {pictures: 1.0}, steps: 1, batch: 1}}"
    model, _ = begun(trained, swapped, stages)
    renamed = {name.replace("connectors.image.", "connectors.picture."): tensor for name, tensor in own.items()}
    assert equal(model, renamed)


def test_training_goes_from_there_and_its_run_needs_the_place_no_more(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(trained / "run")
    stage = {**STAGES["align"], "steps": 1, "train": {"connectors.image": 1e-9}}
    words = [
        f"start={tmp_path / 'run'}",
        f"stages={json.dumps({'align': stage})}".replace("1e-09", "1.0e-09"),
        "connectors.lora.dropout=0.0",
    ]
    assert finish(start(train_here, trained / "recipe.yaml", tmp_path / "new", words)) == [0]
    cold = [words[1], words[2]]
    assert finish(start(train_here, trained / "recipe.yaml", tmp_path / "cold", cold)) == [0]
    assert metrics(tmp_path / "new")[0]["loss"] < metrics(tmp_path / "cold")[0]["loss"]
    (tmp_path / "run").unlink()
    _, model = load_run(tmp_path / "new")
    now = model.state_dict()
    assert all(torch.allclose(now[name], tensor, atol=1e-6) for name, tensor in learned(trained).items())


def test_a_file_with_other_names(trained: Path, tmp_path: Path) -> None:
    tensors = {name.replace("connectors.image.", "model.proj."): one for name, one in learned(trained).items()}
    save_file({name: one.clone() for name, one in tensors.items()}, tmp_path / "w.safetensors")
    rename = json.dumps({"path": str(tmp_path / "w.safetensors"), "rename": {"model.proj.": "connectors.image."}})
    model, _ = begun(trained, f"start={rename}")
    assert equal(model, learned(trained))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["start=RUN", "connectors.lora.rank=3"], r"start: connectors\.lora\.\S+ is \[.*\] in .* connectors of one"),
        (["start=nowhere"], "start: there is no file 'nowhere'"),
        (["start=RUN/stages/align"], r"start: '.*/run/stages/align' is a folder without a run \(it has no stages\)"),
        (["start={path: RUN, stage: tune}"], "start: .* has no stage 'tune'; its stages are align, instruct"),
        (["connectors.image.start={path: RUN, prefix: connectors.other.}"], "and nothing below connectors.other"),
        (["connectors.image.start={path: RUN, rename: {a: b}}"], "rename is for a safetensors file"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(words: list[str], sentence: str, trained: Path) -> None:
    with pytest.raises(RecipeError, match=sentence):
        begun(trained, *(word.replace("RUN", str(trained / "run")) for word in words))


def test_trained_weights_of_a_part_that_stays_frozen_are_refused(trained: Path, tmp_path: Path) -> None:
    stage = {**STAGES["align"], "steps": 1, "train": {"connectors.image": 1e-3, "llm": 1e-4}}
    words = [f"stages={json.dumps({'align': stage})}"]
    assert finish(start(train_here, trained / "recipe.yaml", tmp_path / "tuned", words)) == [0]
    with pytest.raises(RecipeError, match="has trained llm, which no stage of this recipe trains"):
        begun(trained, f"start={tmp_path / 'tuned'}")
    model, _ = begun(trained, f"start={tmp_path / 'tuned'}", *words)
    assert equal(model, read_tensors(tmp_path / "tuned" / "stages" / "align" / "step-1" / LEARNED))
