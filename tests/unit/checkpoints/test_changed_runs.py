"""What of a finished run may change, what may not, and that nothing that shaped its weights changes unnoticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints import digest_cache
from mmllm.checkpoints.load import Trust, load_run
from mmllm.checkpoints.store import newest, verify
from mmllm.errors import CheckpointError, MmllmError, RecipeError
from mmllm.recipe.load import load_recipe
from tests.support.training import STAGES, edit, edit_manifest, finish, inside, metrics, start, train_here

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("eval",), {"max_new_tokens": 7}),
        (("serve", "max_images"), 3),
        (("llm", "context"), 64),
        (("llm", "dtype"), "auto"),
        (("data", "pictures", "path"), "elsewhere.jsonl"),
        (("data", "pictures", "media"), "elsewhere"),
        (("name",), "other"),
        (("data", "pictures", "type"), "chat"),
        (("stages", "instruct", "log_every"), 3),
    ],
)
def test_what_did_not_shape_the_weights_may_change(
    keys: tuple[str, ...], value: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = inside(home, monkeypatch)
    edit(run / "recipe.yaml", *keys, value=value)
    recipe, _ = load_run(run)
    assert recipe == load_recipe(run / "recipe.yaml")


@pytest.mark.parametrize(
    ("keys", "value", "clause"),
    [
        (("seed",), 1, "seed was 0, is 1"),
        (("connectors", "lora", "rank"), 3, "connectors.lora.rank was 2, is 3"),
        (("stages", "instruct", "steps"), 9, "stages.instruct.steps was 4, is 9"),
        (("data", "pictures", "form"), "messages", 'data.pictures.form was null, is "messages"'),
        (("encoders", "image", "layers"), [-1], r"encoders.image.layers was \[-2\], is \[-1\]"),
    ],
)
def test_what_shaped_them_may_not(
    keys: tuple[str, ...], value: object, clause: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = inside(home, monkeypatch)
    edit(run / "recipe.yaml", *keys, value=value)
    with pytest.raises(CheckpointError, match=rf"with another recipe than run/recipe.yaml now holds: {clause}"):
        load_run(run)
    shutil.copy(home / "run" / "recipe.yaml", home / "changed.yaml")
    with pytest.raises(MmllmError, match=clause):
        train_here(home / "changed.yaml", run)


def test_a_wrong_path_does_not_stay_in_the_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    before = (run / "recipe.yaml").read_text()
    more = {"train": {"connectors.lora": 1.0e-3}, "data": {"pictures": 1.0}, "steps": 1, "batch": 2}
    edit(home / "recipe.yaml", "stages", "more", value=more)
    edit(home / "recipe.yaml", "data", "pictures", "media", value="nowhere")
    with pytest.raises(MmllmError, match="there is no folder nowhere"):
        train_here(home / "recipe.yaml", run)
    assert (run / "recipe.yaml").read_text() == before


def test_overrides_of_a_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    recipe, model = load_run(run, overrides=["llm.context=64", "eval.max_new_tokens=3"])
    assert recipe.llm.context == 64 == model.llm.context and recipe.eval.max_new_tokens == 3
    with pytest.raises(
        RecipeError, match=r"connectors.lora.rank was 2, is 4; what shaped the weights .* free are eval"
    ):
        load_run(run, overrides=["connectors.lora.rank=4"])


def test_a_moved_run_finds_its_parts(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    shutil.copytree(home / "run", away / "run")
    llm, encoder = (str(home / name) for name in ("tiny-llama-0", "tiny-clip-0"))
    words = [f"llm.path={llm}", f"encoders.image.model={encoder}"]
    assert load_run(Path("run"), overrides=words)[0].llm.path == llm
    # beside the run itself, before the current folder
    shutil.copytree(llm, away / "run" / "tiny-llama-0")
    shutil.copytree(encoder, away / "run" / "tiny-clip-0")
    (away / "tiny-llama-0").mkdir()
    assert load_run(Path("run"))[0].llm.path == "run/tiny-llama-0"
    # from any other folder too
    monkeypatch.chdir(tmp_path)
    assert load_run(away / "run")[0].llm.path == str(Path("away/run/tiny-llama-0"))


def test_a_run_is_opened_from_another_folder_than_it_was_trained_in(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "run" / "origin.json").write_text(json.dumps({"folder": str(home)}))
    monkeypatch.chdir(tmp_path.parent)
    assert load_run(home / "run")[0].llm.path.endswith("tiny-llama-0")


def test_a_finished_run_goes_on_with_a_further_stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    before = metrics(run)
    more = {**STAGES["align"], "train": {"connectors.image": 1e-3, "llm": 1e-4}, "steps": 2}
    edit(home / "recipe.yaml", "stages", "more", value=more)
    assert finish(start(train_here, Path("recipe.yaml"), run)) == [0]
    rows = metrics(run)
    assert rows[:8] == before and [(row["stage"], row["step"]) for row in rows[8:]] == [("more", 1), ("more", 2)]
    recipe, _ = load_run(run)
    assert list(recipe.stages) == ["align", "instruct", "more"]
    found = newest(run / "stages" / "more")[0]
    assert found is not None and "llm" not in found.manifest.frozen
    edit(home / "recipe.yaml", "stages", "instruct", "steps", value=5)
    with pytest.raises(RecipeError, match=r"stages\.instruct\.steps was 4, is 5"):
        train_here(Path("recipe.yaml"), run)


def test_a_run_without_a_checkpoint_takes_another_recipe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    edit(home / "recipe.yaml", "llm", "path", value="nowhere/at/all")
    with pytest.raises(MmllmError, match="nowhere/at/all"):
        train_here(Path("recipe.yaml"), Path("new"))
    assert not Path("new").exists()
    edit(home / "recipe.yaml", "llm", "path", value="tiny-llama-0")
    shutil.rmtree(home / "run" / "stages")
    edit(home / "recipe.yaml", "seed", value=5)
    edit(home / "recipe.yaml", "stages", value={"align": STAGES["align"] | {"steps": 1}})
    assert finish(start(train_here, Path("recipe.yaml"), Path("run"))) == [0]
    assert load_recipe("run/recipe.yaml").seed == 5


def vocabulary(home: Path) -> None:
    path = home / "tiny-llama-0" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(data))


def template(home: Path) -> None:
    for path in (home / "tiny-llama-0").glob("*"):
        if path.suffix in (".json", ".jinja") and "im_start" in (text := path.read_text()):
            path.write_text(text.replace("<|im_start|>user", "<|im_start|>user "))
            changed = path.read_text().replace("{%- for", " {%- for", 1).replace("{% for", " {% for", 1)
            path.write_text(changed)


def pixels(home: Path) -> None:
    path = home / "tiny-clip-0" / "preprocessor_config.json"
    edit_json(path, image_mean=[0.1, 0.2, 0.3])


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def one_more_row(home: Path) -> None:
    with (home / "chat.jsonl").open("a") as file:
        file.write((home / "chat.jsonl").read_text().splitlines()[0] + "\n")


@pytest.mark.parametrize(
    ("change", "name"), [(vocabulary, "tokenizer"), (template, "template"), (pixels, "preprocessing.image")]
)
def test_a_changed_input_is_refused_or_accepted(
    change: object, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = inside(home, monkeypatch)
    assert callable(change)
    change(home)
    with pytest.raises(CheckpointError, match=rf"was trained with another {name} than there is now.*--accept changed"):
        load_run(run)
    load_run(run, trust=Trust(changed=True))
    assert f"{name} is another than" in caplog.text


def test_changed_data_are_met_when_a_run_resumes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmllm.training.run import train

    run = inside(home, monkeypatch)
    shutil.rmtree(run / "stages" / "instruct" / "step-4")
    one_more_row(home)
    load_run(run)  # for use, data do not count
    recipe = load_recipe("recipe.yaml")
    with pytest.raises(CheckpointError, match=r"step-2 was trained with another data\.pictures than there is now"):
        train(recipe, run)
    train(recipe, run, accept=True)
    found = newest(run / "stages" / "instruct")[0]
    assert found is not None and found.manifest.accepted == ["data.pictures changed before step 3 of stage instruct"]


def test_every_bit_of_a_manifest_counts(home: Path) -> None:
    folder = home / "run" / "stages" / "instruct"
    path = folder / "step-4" / "manifest.json"
    text = path.read_bytes()
    unseen = []
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            verify(path.parent)
            unseen.append(bit)
        except CheckpointError:
            continue
    assert unseen == []
    found, skipped = newest(folder)  # the last flip is still there
    assert found is not None and found.manifest.step == 2 and len(skipped) == 1
    path.write_bytes(text)
    found, skipped = newest(folder)
    assert found is not None and found.manifest.step == 4 and not skipped


def test_a_checkpoint_in_another_place_is_none(home: Path) -> None:
    folder = home / "run" / "stages" / "instruct"
    (folder / "step-4").rename(folder / "step-9")
    found, skipped = newest(folder)
    assert found is not None and found.manifest.step == 2
    assert "step-9 is not where it belongs: its manifest says step 4 of stage instruct" in skipped[0]


def test_frozen_weights_are_hashed_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    (run / digest_cache.FILE).unlink(missing_ok=True)
    hashed: list[str] = []
    real = digest_cache.frozen_digests

    def counted(model: object, wanted: list[str]) -> dict[str, str]:
        hashed.extend(wanted)
        return real(model, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(digest_cache, "frozen_digests", counted)
    load_run(run)
    load_run(run)
    assert sorted(hashed) == ["encoders.image", "llm"]
    load_run(run, trust=Trust(verify=True))
    assert len(hashed) == 4
    weights = next((home / "tiny-llama-0").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="was trained on other weights of llm"):
        load_run(run)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_than_in_training(dtype: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are told by what they were in training, then cast as a run of that dtype has them."""
    run = inside(home, monkeypatch)
    _, plain = load_run(run)
    recipe, model = load_run(run, overrides=[f"llm.dtype={dtype}"])
    wanted = getattr(torch, dtype)
    assert recipe.llm.dtype == dtype and model.llm.dtype == wanted and model.recipe == recipe
    for name, tensor in model.state_dict().items():
        expected = plain.state_dict()[name]
        learned = name.startswith("connectors.")
        assert tensor.dtype == (torch.float32 if learned or not expected.is_floating_point() else wanted), name
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
    edit(run / "recipe.yaml", "llm", "dtype", value=dtype)
    assert load_run(run)[1].llm.dtype == wanted


def test_a_run_without_its_recipe_is_still_another_recipes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    (run / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match=r"was started with another recipe: connectors\.lora\.rank was 2, is 4"):
        train_here(home / "recipe.yaml", run, ["connectors.lora.rank=4"])
    assert not (run / "recipe.yaml").exists()
    train_here(home / "recipe.yaml", run)
    assert load_recipe(run / "recipe.yaml").connectors["lora"].args["rank"] == 2


def test_an_older_manifest_is_taken_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    path = run / "stages" / "instruct" / "step-4" / "manifest.json"
    values = json.loads(path.read_text())
    for word in ("shaping", "inputs", "accepted", "threads", "digest"):
        del values[word]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="by a version that did not write down which words differ"):
        load_run(run)  # its paths were rewritten above, which an older one's digest does not forgive
    from mmllm.recipe.load import digest, parse

    values["recipe"] = digest(parse((run / "recipe.yaml").read_text()))
    path.write_text(json.dumps(values))
    load_run(run)
    edit_manifest(path, frozen={**values["frozen"], "llm": "0" * 64})
    with pytest.raises(CheckpointError, match="other weights of llm"):
        load_run(run)
