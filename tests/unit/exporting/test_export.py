"""`mmllm export`: what other software loads gives the run's ids, pixels, logits and answers, or nothing is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers as t
import yaml
from peft import AutoPeftModelForCausalLM

import mmllm
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.exporting.export import export_run
from mmllm.exporting.whole import write
from mmllm.model.build import build
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.published import CASES, published_folder
from tests.support.training import finish, start, tiny_recipe, train_here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP tower, an mlp and a Llama with LoRA, assembled by hand and trained."""
    folder = tmp_path_factory.mktemp("exported")
    assert finish(start(train_here, tiny_recipe(folder, steps=3), folder / "run")) == [0]
    return folder / "run"


def answer(model: mmllm.Model, **words: object) -> str:
    return model.chat("What is on it?", max_new_tokens=6, **words).strip()  # type: ignore[arg-type]


def test_a_run_assembled_by_hand_is_a_llava(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().out
    assert "equal: logits (333 x 250)" in said and "equal: answer (120 x 200)" in said and "exported: " in said
    # loaded by transformers alone, on another picture
    theirs = t.AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    processor = t.AutoProcessor.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == "LlavaForConditionalGeneration"
    image = picture(61, 90)
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on it?"}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    given = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
    ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
    model = mmllm.load(run)
    assert answer(model, image=image) == expected
    # and the way back
    import_checkpoint(str(tmp_path / "hf"), tmp_path / "again")
    assert answer(mmllm.load(tmp_path / "again"), image=image) == expected


# peft 0.21 asks transformers 5.23 for a property that it calls deprecated
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_its_lora_is_a_peft_adapter_and_can_be_merged(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for form in ("peft", "llm"):
        stages = export_run(run, form, tmp_path / form, say=said.append, certify=form == "llm")
        assert [stage.name for stage in stages] == ["ids (text)", "logits (text)", "answer (text)"]
    assert not (tmp_path / "peft" / "certificate.json").exists()
    assert f"no certificate: `mmllm certify {run}` makes one, which the next export takes along" in said
    certificate = json.loads((tmp_path / "llm" / "certificate.json").read_text())
    assert [one["part"] for one in certificate["text"]["changes"]] == ["connectors.lora", "logits"]
    assert "changes text: `connectors.lora`" in (tmp_path / "llm" / "README.md").read_text()
    assert str(run.parent) not in (tmp_path / "llm" / "certificate.json").read_text()
    adapter = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(run.parent / "tiny-llama-0")
    beside = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft").eval()
    merged = t.AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval()
    plain = t.AutoModelForCausalLM.from_pretrained(run.parent / "tiny-llama-0").eval()
    ids = torch.tensor([[5, 9, 2, 40]])
    with torch.no_grad():
        found = [one(input_ids=ids).logits for one in (beside, merged, plain)]
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 1e-4, "the LoRA did nothing"


@pytest.mark.parametrize(
    "case",
    ["LLaVA, no biases, tanh GELU", "LLaVA-NeXT", "Gemma 3", "Qwen3-VL", "BLIP-2", "Mistral 3", "Fuyu", "Voxtral"],
)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    made = CASES[case]
    folder = published_folder(made.name, tmp_path / "vlm", **made.changes)
    import_checkpoint(str(folder), tmp_path / "run")
    export_run(tmp_path / "run", "hf", tmp_path / "out")
    (kind,) = t.AutoConfig.from_pretrained(tmp_path / "vlm").architectures
    before, after = (getattr(t, kind).from_pretrained(tmp_path / name) for name in ("vlm", "out"))
    tensors = after.state_dict()
    assert before.config.architectures == after.config.architectures == [kind]
    assert before.state_dict().keys() == tensors.keys()
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("form", "first"), [("llm", "text"), ("hf", "333 x 250")])
def test_nothing_is_written_that_differs(
    form: str, first: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmllm.exporting import merging

    monkeypatch.setattr(merging, "updates", lambda connector: iter(()))
    where = rf"--to {form}: what was written differs from the run first in its logits \({first}\)"
    with pytest.raises(MmllmError, match=where):
        export_run(run, form, tmp_path / "out")
    assert not list(tmp_path.iterdir())


REFUSED = {
    "connectors.lora={type: lora, rank: 2, dropout: 0.1, when: [image]}": "works only in conversations with image",
    "connectors.image.depth=1": "two layers of the LLM's width without a norm, and connectors.image is not",
    "connectors.image={type: pool, from: image, grid: [2, 2]}": "its projector is mlp of depth 2, and connectors.image",
    "encoders.image.layers=[final]": "this run reads layers: [final]",
    "encoders.image.fit=pad": "no image processor of transformers does what fit: pad does here",
    'connectors.image.around=["<", ">"]': "connectors.image has times, tiles or around",
    "connectors.lora={type: series_adapter}": "SeriesAdapterConnector) works inside a frozen part",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_no_model_of_transformers_holds_is_refused(
    change: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmllm.exporting import export

    recipe = load_recipe(run.parent / "recipe.yaml", [change])
    model = build(recipe, "cpu")
    monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError) as found:
        export_run(run, "hf", tmp_path / "out")
    assert REFUSED[change] in str(found.value) and len(str(found.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said", "forms"),
    [
        ('llm.tokens=["<here>"]', "--to peft has no place for them, --to hf and --to llm", ["peft"]),
        ("llm.quantize=int8", "its LLM is quantised", ["hf", "llm", "peft"]),
        ("llm.quantize=int8_weight_only", "its LLM is quantised", ["hf", "peft"]),
    ],
)
def test_an_llm_that_no_form_holds_is_refused(
    words: str, said: str, forms: list[str], run: Path, tmp_path: Path
) -> None:
    from mmllm.recipe.load import dump

    changed = load_recipe(run.parent / "recipe.yaml", [words])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(dump(changed), encoding="utf-8")
    for form in forms:
        with pytest.raises(MmllmError, match=re.escape(said)):
            export_run(tmp_path / "run", form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_new_tokens_are_in_the_tables_that_are_written(run: Path, tmp_path: Path) -> None:
    from mmllm.generation.model import Model
    from mmllm.testing.tiny.weights import randomise

    recipe = load_recipe(run.parent / "recipe.yaml", ['llm.tokens=["<here>", "<there>"]'])
    model = build(recipe, "cpu")
    assert model.llm.tokens is not None
    randomise(model.llm.tokens)
    Model(model, recipe).save_pretrained(tmp_path / "run")
    for form in ("llm", "hf"):
        export_run(tmp_path / "run", form, tmp_path / form)
        tokenizer = t.AutoTokenizer.from_pretrained(tmp_path / form)
        (number,) = tokenizer("<there>", add_special_tokens=False).input_ids
        kind = t.AutoModelForCausalLM if form == "llm" else t.AutoModelForImageTextToText
        theirs = kind.from_pretrained(tmp_path / form)
        assert number == model.llm.tokens.first + 1
        assert torch.equal(theirs.get_input_embeddings().weight[number], model.llm.tokens.embed.weight[1])
        assert torch.equal(theirs.get_output_embeddings().weight[number], model.llm.tokens.head.weight[1])


def test_all_that_an_imported_run_learned_is_written(tmp_path: Path) -> None:
    """Its encoder and a LoRA of its LLM; the text model by itself too, and no LoRA beside a model that is more."""
    import_checkpoint(str(published_folder("Llava", tmp_path / "vlm")), tmp_path / "run")
    picture(50, 40).save(tmp_path / "0.png")
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A sign."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "0.png", "messages": turns}) + "\n", encoding="utf-8")
    words = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    path, words["start"] = tmp_path / "more.yaml", str(tmp_path / "run")
    words["connectors"]["lora"] = {"type": "lora", "rank": 2}
    words["data"] = {"rows": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    # so little of the encoder that no logit shows it
    rates = {"encoders.image": 1e-7, "connectors.lora": 1e-2}
    words["stages"] = {"all": {"train": rates, "data": {"rows": 1.0}, "steps": 2, "batch": 1}}
    path.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
    run = tmp_path / "more"
    train_here(path, run)
    export_run(run, "hf", tmp_path / "hf")
    model, theirs = mmllm.load(run), t.AutoModelForImageTextToText.from_pretrained(tmp_path / "hf")
    plain = t.AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    learned = model.encoders["image"].vision.state_dict()  # type: ignore[union-attr, operator]
    for name, tensor in theirs.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, learned[name]), name
    assert any(not torch.equal(one, learned[name]) for name, one in plain.model.vision_tower.state_dict().items())
    export_run(run, "llm", tmp_path / "llm")
    with pytest.raises(
        MmllmError, match="vlm is a published multimodal model, which AutoModelForCausalLM does not open"
    ):
        export_run(run, "peft", tmp_path / "peft")
    deeper = load_recipe(path, ["connectors.image.depth=3"])
    with pytest.raises(MmllmError, match=r"connectors.image has other layers than the published model: its multi"):
        list(write(deeper, build(deeper, "cpu"), tmp_path))
