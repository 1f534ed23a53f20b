"""The Python face: what saving and opening refuse, so that nothing is lost and nothing is left out unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import mmllm
from mmllm.checkpoints.load import find_run
from mmllm.errors import MmllmError
from mmllm.generation.model import Model
from mmllm.model.build import build
from mmllm.recipe.load import load_recipe
from tests.support.training import tiny_recipe


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


def test_saving_replaces_no_run(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    model = Model(build(recipe, "cpu"), recipe)
    model.save_pretrained(tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(MmllmError, match="holds a run already, and saving would replace its checkpoints"):
        model.save_pretrained(tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
    (tmp_path / "file").write_text("")
    with pytest.raises(MmllmError, match=r"file cannot be written \(File exists\)"):
        model.save_pretrained(tmp_path / "file")
    again = Model.from_pretrained(tmp_path / "run", device="cpu", stage="instruct")
    state, other = model.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state if name.startswith("connectors."))
    with pytest.raises(MmllmError, match="from_pretrained does not know torch_dtype"):
        Model.from_pretrained(tmp_path / "run", torch_dtype="bfloat16")


def test_a_recipe_of_a_run_trains_there(recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Path] = []
    monkeypatch.setattr("mmllm.training.run.train", lambda _, folder: trained.append(folder))
    run = tmp_path / "called otherwise"
    (run / "stages").mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe_path.read_text())
    for given in (run, run / "recipe.yaml", mmllm.load_recipe(run), mmllm.load_recipe(run, ["seed=1"])):
        assert mmllm.train(given) == run
    assert mmllm.train(mmllm.load_recipe(recipe_path)) == Path("runs/tiny")
    assert mmllm.train(run, tmp_path / "out") == tmp_path / "out"
    assert trained == [run] * 4 + [Path("runs/tiny"), tmp_path / "out"]


def test_what_looks_like_a_path_is_not_asked_for_over_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "mine").mkdir()
    for path in ("runs/typo", "mine/typo", "./a/b", "/a", "~/a", "a", "a/b/c"):
        assert find_run(path) == Path(path)


def test_a_text_is_no_list() -> None:
    with pytest.raises(MmllmError, match=r"overrides is a list; write overrides=\['seed=1'\]"):
        mmllm.load_recipe("some.yaml", "seed=1")
    with pytest.raises(MmllmError, match=r"a run is a folder's path or a name of the hub, found None"):
        mmllm.load(None)  # type: ignore[arg-type]
    with pytest.raises(MmllmError, match="a recipe is a file, a run folder or a name, found 3"):
        mmllm.load_recipe(3)  # type: ignore[arg-type]
    with pytest.raises(MmllmError, match=r"benchmarks is a list; write benchmarks=\['pope'\]"):
        mmllm.evaluate("runs/none", "pope")


def test_one_text_is_one_stop_and_no_list_of_conversations(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    model = Model(build(recipe, "cpu"), recipe)
    red = Image.new("RGB", (8, 8), "red")
    whole = model.chat("What is it?", image=red, max_new_tokens=8)
    stop = whole[2:4]
    assert model.chat("What is it?", image=red, max_new_tokens=8, stop=stop) == whole.partition(stop)[0]
    assert model.generate(["Hi"], max_new_tokens=4, stop="never") == model.generate(["Hi"], max_new_tokens=4)
    with pytest.raises(MmllmError, match=r"generate takes a list of conversations; write generate\(\['say'\]\)"):
        model.generate("say")
    for items in ([], [red, red]):
        with pytest.raises(MmllmError, match=f"process takes one item; image has {len(items)}"):
            model.process(image=items)
    assert model.process(image=[red])
    with pytest.raises(MmllmError, match="max_new_tokens is '3'; it is a whole number"):
        model.chat("Hi", max_new_tokens="3")  # type: ignore[arg-type]
    with pytest.raises(MmllmError, match=r"max_new_tokens is 2\.5; it is a whole number"):
        model.generate(["Hi"], max_new_tokens=2.5)  # type: ignore[arg-type]
    with pytest.raises(MmllmError, match="temperature is None; it is a number"):
        model.chat("Hi", temperature=None)  # type: ignore[arg-type]
    with pytest.raises(MmllmError, match=r"stop is \(3,\); it is a text or a list of texts"):
        model.chat("Hi", stop=[3])  # type: ignore[list-item]
    with pytest.raises(MmllmError, match="'max_tokens' is neither a setting"):
        model.chat("Hi", max_tokens=3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said(recipe_path: Path) -> None:
    with pytest.raises(MmllmError, match="device 'cuda': torch finds no GPU here"):
        build(load_recipe(recipe_path), "cuda")
