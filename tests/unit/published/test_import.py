"""`mmllm import`: tiny random published models become runs that answer as transformers' own, in every odd config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml
from PIL import Image
from safetensors.torch import load_file

import mmllm
from docs.write.published import row
from mmllm.checkpoints.store import LEARNED
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import SIZES, picture
from mmllm.serving.app import load_app
from mmllm.testing.tiny.published import CASES, PUBLISHED, published_folder
from tests.support.places import ROOT
from tests.support.published import needed
from tests.support.serving import body, data_url, image_part, local, text_part
from tests.support.training import finish, metrics, start, train_here

PIXELS = ("ids", "pixels", "tokens", "logits", "answer")
MEL = ("ids", "spectrogram", "mask", "tokens", "logits", "answer")


def seen(kind: str) -> list[str]:
    """Stages of a kind of model that agrees in all of them."""
    shown = {
        # its `generate` takes no prompt without two tokens of a sound, see published/media/sounds.py
        "Qwen2Audio": [(MEL[:-1], "0.02 s"), (MEL, "0.1 s"), (MEL, "1 s"), (MEL, "0.05 s and 0.1 s")],
        "AudioFlamingo3": [(MEL, f"{seconds} s") for seconds in (0.02, 0.1, 1, 1.01, 2.33)],
        "GraniteSpeech": [(MEL, f"{length} s") for length in (0.02, 0.1, 1, 1.01, 2.33, "0.1 s and 0.1")],
        "Voxtral": [(MEL, f"{seconds} s") for seconds in (0.02, 3, 30, 30.01, 70, "1.5 s and 3")],
    }
    shown["GraniteSpeechLora"] = shown["GraniteSpeech"]
    pictures = [(PIXELS, f"{width} x {height}") for width, height in SIZES]
    by_rate, fixed = (PIXELS, "5 frames"), (PIXELS, "8 frames")
    shown |= {kind: [*pictures, by_rate] for kind in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")}
    shown |= {kind: [*pictures, fixed] for kind in ("LlavaNextVideo", "VideoLlava", "InternVL")}
    shown["SmolVLM2"] = [*pictures, by_rate]
    # one picture of a conversation is read otherwise than two
    shown["LlavaOnevision"] = [*pictures, (PIXELS, "two pictures"), fixed]
    stages = [f"{what} ({name})" for kinds, name in shown.get(kind, pictures) for what in kinds]
    return [*stages, "ids (text)", "logits (text)"]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    published_folder("Llava", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_imported_models_are_transformers_own(case: str, tmp_path: Path) -> None:
    made = CASES[case]
    needed(PUBLISHED[made.name])
    folder = published_folder(made.name, tmp_path / "vlm", **made.changes)
    stages = import_checkpoint(str(folder), tmp_path / "run", tiles=made.tiles)
    assert [stage.name for stage in stages] == seen(made.name)
    assert all(stage.equal for stage in stages)
    assert row(case, stages) in (ROOT / "docs" / "published-models.md").read_text(), (
        "run: python -m docs.make published"
    )
    report = json.loads((tmp_path / "run" / "import.json").read_text())
    assert report["transformers"] == t.__version__ and len(report["stages"]) == len(stages)
    recipe = mmllm.load_recipe(tmp_path / "run")
    assert recipe.llm.path == str(folder) and not recipe.stages
    learned = [key for key, part in recipe.connectors.items() if part.shares is None]
    model = mmllm.load(tmp_path / "run").model
    assert set(load_file(tmp_path / "run" / "stages" / "imported" / "step-0" / LEARNED)) == {
        f"connectors.{key}.{name}" for key in learned for name in model.connectors[key].state_dict()
    }


def test_an_imported_run_answers_as_the_model(llava: Path) -> None:
    model = mmllm.load(llava / "run")
    processor = t.AutoProcessor.from_pretrained(llava / "vlm")
    theirs = t.AutoModelForImageTextToText.from_pretrained(llava / "vlm").eval()
    image = picture(200, 90)
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    given = processor(text=[text], images=[image], return_tensors="pt")
    ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
    assert model.chat("Where?", image=image, max_new_tokens=6).strip() == expected
    # the place of a picture is its part's, wherever the text has it
    assert model.chat("<image>\nWhere?", image=image, max_new_tokens=6).strip() == expected


def test_a_typed_token_of_pictures_is_text(llava: Path) -> None:
    model = mmllm.load(llava / "run")
    sample = model._sample("What does \\<image> mean? <|im_start|>", {})
    prompt = model.generator.prompter.tokenize_prompt(sample)
    number = model.model.llm.tokenizer.convert_tokens_to_ids("<image>")
    assert number not in prompt.ids and not prompt.places
    assert "<image> mean? <|im_start|>" in model.model.llm.tokenizer.decode(prompt.ids)


def test_what_learns_further(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and a stage added to an imported run train it from the published weights; the published ones stay."""
    import_checkpoint(str(llava / "vlm"), tmp_path / "run")
    said = {"role": "assistant", "content": "A sign."}
    asked = [{"role": "user", "content": f"<image>\nWhat is {n}?"} for n in range(4)]
    rows = [{"image": f"{n}.png", "messages": [asked[n], said]} for n in range(4)]
    for n in range(4):
        Image.new("RGB", (40, 30), (60 * n, 90, 200)).save(tmp_path / f"{n}.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run" / "recipe.yaml"
    with pytest.raises(MmllmError, match="has no stages: nothing to train; add data and stages to it"):
        mmllm.train(tmp_path / "run")
    words = yaml.safe_load(path.read_text())
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 3, "batch": 2}
    words["stages"] = {"signs": stage}
    path.write_text(yaml.safe_dump(words, sort_keys=False))
    published = load_file(tmp_path / "run" / "stages" / "imported" / "step-0" / LEARNED)
    before = mmllm.load(tmp_path / "run", stage="imported").model.state_dict()
    train_here(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    learned = load_file(tmp_path / "run" / "stages" / "signs" / "step-3" / LEARNED)
    assert published.keys() == learned.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in published.items())
    moved = [float((learned[name] - tensor).abs().max()) for name, tensor in published.items()]
    assert 0 < max(moved) < 0.1, "it began where the published weights are"
    # in bookkeeping the published weights are no stage
    assert mmllm.load(tmp_path / "run").recipe.stages.keys() == {"signs"}
    with pytest.raises(MmllmError, match="has no stage 'sings'; its stages are imported, signs"):
        mmllm.load(tmp_path / "run", stage="sings")


def test_a_copied_model_moves_with_its_run(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(llava / "vlm", tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run", copy=True)
    shutil.rmtree(tmp_path / "vlm")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = mmllm.load("moved").chat("Where?", image=picture(90, 90), max_new_tokens=4)
    assert again == mmllm.load(llava / "run").chat("Where?", image=picture(90, 90), max_new_tokens=4)


def test_the_command(llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(llava / "vlm"), "--out", "taken"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{llava / 'vlm'} is LLaVA 1.5; transformers {t.__version__} is what it is compared with" in said
    assert "equal: ids (333 x 250)" in said and said[-2:] == ["imported: taken", "next: mmllm chat taken"]
    assert main(["check", "taken"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "taken/recipe.yaml: ok (no stages yet)" and said[-1] == "next: mmllm chat taken"
    words = yaml.safe_load(Path("taken/recipe.yaml").read_text()) | {"start": "taken", "name": "more"}
    Path("rows.jsonl").write_text('{"query": "a", "response": "b"}\n')
    words["data"] = {"rows": {"type": "chat", "path": "rows.jsonl"}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"rows": 1.0}, "steps": 1, "batch": 1}
    Path("more.yaml").write_text(yaml.safe_dump(words | {"stages": {"one": stage}}, sort_keys=False))
    assert main(["check", "more.yaml"]) == 0, "the weights of an imported run are a start"
    assert main(["import", str(llava / "vlm"), "--out", "taken"]) == 2
    assert "taken is there already; choose another --out, or remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("Blip2", {"text_config": t.T5Config(d_model=32, d_ff=48, num_layers=1)}, "has a t5 as its"),
        ("InstructBlip", {"image_token_index": None}, "is of an older format: its configuration names no image_token"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(name: str, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = published_folder(name, tmp_path / "vlm", **changes)
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vlm"], "nothing is left behind"


@pytest.mark.parametrize(
    ("section", "words", "sentence"),
    [
        ("encoders", {"layers": [-1]}, r"first in its tokens \(333 x 250\): by .* \(at most 0\.0001\)"),
        ("encoders", {"fit": "squash"}, r"first in its pixels \(333 x 250\): by .* \(at most 1e-06\)"),
        ("connectors", {"around": ["a", "b"]}, r"first in its ids \(333 x 250\): 91 there, 93 here; from position"),
    ],
)
def test_a_difference_is_named_by_its_stage(
    section: str, words: dict[str, Any], sentence: str, llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers computes otherwise than the importer believes is found, and nothing is written."""
    from mmllm.published.architectures import llava as architecture

    right = architecture.sections

    def wrong(source: Any) -> Any:
        found = right(source)
        getattr(found, section)["image"].update(words)
        return found

    monkeypatch.setattr(architecture, "sections", wrong)
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(llava / "vlm"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_part_is_swapped_by_one_line(tmp_path: Path) -> None:
    """SmolVLM with DINOv2 in place of its tower: the projector learns anew, all else is SmolVLM's, tiles and text."""
    published_folder("SmolVLM", tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    config = t.Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    t.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    pictures = t.BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pictures.save_pretrained(tmp_path / "dino")
    words = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    words["encoders"]["image"]["image"] = {"type": "hf_vision", "model": str(tmp_path / "dino"), "layers": ["final"]}
    rows = []
    for n, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (60 + 40 * n, 50), colour).save(tmp_path / f"{n}.png")
        rows.append({"image": f"{n}.png", "question": "What colour?", "answer": colour})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 20, "batch": 4}
    words |= {"name": "swapped", "stages": {"align": stage}}
    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    finished = start(train_here, tmp_path / "swapped.yaml", tmp_path / "swapped")
    assert finish(finished) == [0]
    losses = [row["loss"] for row in metrics(tmp_path / "swapped")]
    assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
    model = mmllm.load(tmp_path / "swapped")
    assert type(model.encoders["image"]).__name__ == "TilesEncoder" and model.encoders["image"].dim == 24
    said = model.chat("What colour?", image=tmp_path / "3.png", max_new_tokens=6)
    assert said
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    asked = {"qa_json": {"path": str(tmp_path / "questions.json"), "metric": "exact_match"}}
    assert mmllm.evaluate(model, asked)["benchmarks"]["qa_json"]["n"] == 4
    shown = image_part(data_url((tmp_path / "3.png").read_bytes()))
    with local(load_app(tmp_path / "swapped")[1]) as http:
        answer = http.post("/v1/chat/completions", json=body([shown, text_part("What colour?")], model="swapped"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == said
