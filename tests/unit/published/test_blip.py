"""BLIP-2 and InstructBLIP as runs: a Q-Former's tokens rest on a picture and the question beside it, in all passes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml
from PIL import Image

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.cli import main
from mmllm.errors import MmllmError, RecipeError, TooLongError
from mmllm.generation.generator import Generator
from mmllm.generation.packed import Packed
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.feature_cache import cache_features
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_sharing
from mmllm.model.trainable import set_trainable
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Batch, Message, Sample
from tests.support.training import train_here

LONG, SHORT = "What is it on the left, behind the tree?", "Why?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InstructBLIP with OPT, whose positions are learned, and its run."""
    folder = tmp_path_factory.mktemp("blip")
    published_folder("InstructBlip", folder / "vlm", bos=True)
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.fixture
def model(place: Path) -> MultimodalLM:
    loaded: MultimodalLM = mmllm.load(place / "run").model
    return loaded


def said(question: str, image: Any = None, answer: str = "A test.") -> Sample:
    media = {} if image is None else {"image": (image,)}
    text = question if image is None else f"<image>\n{question}"
    return Sample(question, (Message("user", text), Message("assistant", answer)), media)


def packed(model: MultimodalLM, samples: Sequence[Sample]) -> Batch:
    prompter = Prompter(model.llm.tokenizer, model.places)
    return collate([encode(one, prompter, model.inputs, 512, train=True) for one in samples], model.inputs)


def ways(generator: Generator) -> Packed:
    assert isinstance(generator.engine.way, Packed)
    return generator.engine.way


def tokens(model: MultimodalLM, samples: Sequence[Sample]) -> torch.Tensor:
    batch = packed(model, samples)
    ctx, _ = model.embed(batch)
    return model.project("image", batch.media["image"], ctx)[0].unflatten(0, (len(samples), -1))


@torch.no_grad()
def test_the_question_is_read_and_nothing_else(place: Path, model: MultimodalLM) -> None:
    """Another question gives other tokens; a longer one beside it, the answer and another conversation do not."""
    image = picture(50, 40)
    both = tokens(model, [said(LONG, image), said(SHORT, image)])
    assert (both[0] - both[1]).abs().max() > 0.01
    for own, question in zip(both, (LONG, SHORT), strict=True):
        alone = tokens(model, [said(question, image, "Another answer.")])[0]
        torch.testing.assert_close(own, alone, atol=1e-5, rtol=1e-5)
    item = encode(said(SHORT, image), Prompter(model.llm.tokenizer, model.places), model.inputs, 512, train=True)
    (ids,) = item.media["image"][0]["<question>"].values()
    own = t.AutoTokenizer.from_pretrained(
        model.inputs["image"].questions.tokenizer.model, subfolder="qformer_tokenizer"
    )
    assert own.decode(ids) == "[CLS] why? [SEP]"


def test_packed_is_unpacked(model: MultimodalLM) -> None:
    """Loss and gradients of a row of three are those of each alone; all that learns has a gradient."""
    set_trainable(model, {"connectors.image": 1e-2})
    samples = [said(LONG, picture(50, 40)), said("Only text."), said(SHORT, picture(30, 60))]

    def gradients(batches: Sequence[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = torch.stack([model.train()(batch)[0] for batch in batches]).sum()
        total.backward()
        return total.detach(), {name: one.grad.clone() for name, one in model.connectors.named_parameters()}

    loss, together = gradients([packed(model, samples)])
    each, alone = gradients([packed(model, [one]) for one in samples])
    torch.testing.assert_close(loss, each)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], atol=1e-4, rtol=1e-3, msg=name)
        assert gradient.abs().max() > 0, name


def test_a_batch_without_pictures_takes_part(model: MultimodalLM) -> None:
    set_trainable(model, {"connectors.image": 1e-2})
    model.train()(packed(model, [said("Only text.")]))[0].backward()
    assert all(one.grad is not None and not one.grad.any() for one in model.connectors.parameters())


def test_answers_are_the_same_in_every_way_of_reading(place: Path, model: MultimodalLM) -> None:
    """Alone, beside others, again (what was read is found), and as transformers' own: question by question."""
    image = picture(50, 40)
    asked = [Sample(q, (Message("user", f"<image>\n{q}"),), {"image": (image,)}) for q in (LONG, SHORT, LONG, "")]
    expected = [found.text for found in (Generator(model).generate([one], 6)[0] for one in asked)]
    generator = Generator(model)
    assert [found.text for found in generator.generate(asked, 6)] == expected
    assert [found.text for found in generator.generate(asked, 6)] == expected
    # the picture with its question is known; with another question it is another item
    assert ways(generator).items.encoded == 3 and len({*expected}) > 1
    theirs = t.InstructBlipForConditionalGeneration.from_pretrained(place / "vlm").eval()
    processor = t.AutoProcessor.from_pretrained(place / "vlm")
    for question, text in zip((LONG, SHORT, "", ""), (expected[0], expected[1], expected[3]), strict=False):
        given = processor(images=[image], text=[question], return_tensors="pt")
        ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip() == text.strip()


@torch.no_grad()
def test_kept_features_serve_every_question(place: Path, tmp_path: Path) -> None:
    model = build(load_recipe(place / "run" / "recipe.yaml"), "cpu")
    (tmp_path / "a.png").write_bytes(b"")
    picture(50, 40).save(tmp_path / "a.png")
    samples = [said(LONG, tmp_path / "a.png"), said(SHORT, tmp_path / "a.png")]
    live = tokens(model, samples)
    cache_features(model, tmp_path / "kept", "float32")
    for _ in range(2):
        assert torch.equal(tokens(model, samples), live)


def test_what_is_refused(place: Path, model: MultimodalLM) -> None:
    with pytest.raises(TooLongError, match=r"has 102 tokens of the tokenizer .* that reads it has 64"):
        packed(model, [said("a " * 100, picture(20, 20))])
    with pytest.raises(RecipeError, match=r"share_prefix: connectors.image \(QFormerConnector\) looks at more"):
        check_sharing(model, "stages.one")
    features = model.inputs["image"].read_alone(picture(20, 20))
    with torch.no_grad(), pytest.raises(MmllmError, match="reads the text of the message beside an item"):
        model.connectors["image"](model.encoders["image"](**features["image"]))


def test_it_learns_further(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An imported run with data trains, is checked and looked at; its second tokenizer is part of it."""
    rows = []
    for number, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (60 + 40 * number, 50), colour).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "What colour?", "answer": colour})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    words["llm"]["template"] = str(place / "run" / "chat_template.jinja")
    words |= {"name": "more", "start": str(place / "run")}
    words["stages"] = {"one": {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 16, "batch": 4}}
    recipe = tmp_path / "more.yaml"
    recipe.write_text(yaml.safe_dump(words, sort_keys=False))
    lacking = {"subfolder": ("bert", "bert holds no tokenizer"), "tokenizer": ("no/such/place", "there is no file")}
    for word, (value, sentence) in lacking.items():
        wrong = words["connectors"]["image"] | {word: value}
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(words | {"connectors": {"image": wrong}}))
        assert main(["check", str(tmp_path / "wrong.yaml")]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["check", str(recipe)]) == 0
    assert main(["inspect", str(recipe)]) == 0
    capsys.readouterr()
    train_here(recipe, tmp_path / "out")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    inputs = json.loads(next((tmp_path / "out").rglob("manifest.json")).read_text())["inputs"]
    assert "question.image" in inputs


@torch.no_grad()
def test_half_precision_stays_near_transformers_own(place: Path, tmp_path: Path) -> None:
    """In float16 connectors here compute in float32, of transformers' the queries alone; in a run that moves along."""
    import_checkpoint(str(place / "vlm"), tmp_path / "taken", copy=True)
    (tmp_path / "taken").rename(tmp_path / "run")
    words = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert words["connectors"]["image"]["tokenizer"] == words["llm"]["path"] == "published"
    words["llm"]["dtype"] = "float16"
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    ours = mmllm.load(tmp_path / "run").model
    batch = packed(ours, [said(SHORT, picture(50, 40))])
    theirs = t.InstructBlipForConditionalGeneration.from_pretrained(place / "vlm", dtype=torch.float16).eval()
    assert theirs.query_tokens.dtype is torch.float32 and theirs.language_projection.weight.dtype is torch.float16
    seen = batch.media["image"]
    given = {"pixel_values": seen["image"]["pixels"].half(), "qformer_input_ids": seen["<question>"]["question"]}
    expected = theirs.get_image_features(**given, return_dict=True).pooler_output[0].float()
    ctx, _ = ours.embed(batch)
    found = ours.project("image", seen, ctx)[0].float()
    assert (found - expected).abs().max() < 0.01 * (expected.max() - expected.min())
