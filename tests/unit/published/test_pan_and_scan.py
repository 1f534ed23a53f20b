"""Gemma 3's crops of long pictures: how many, by size alone; text in front of a picture that depends on it; written
back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode, plan
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError, UnreadableError
from mmllm.exporting.export import export_run
from mmllm.generation.generator import Generator
from mmllm.inspection.views import view
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.processors.tile_rules import pan_and_scan
from mmllm.processors.tiles import TilesProcessor
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import parse
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Message, Sample, Tiling

CALL = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 28}
LONG, HIGH, NEAR, SMALL = (90, 40), (50, 170), (60, 51), (40, 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    published_folder("Gemma3Cropping", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> MultimodalLM:
    loaded: MultimodalLM = mmllm.load(place / "run").model
    return loaded


@pytest.mark.parametrize(("shortest", "most", "ratio"), [(28, 4, 1.2), (10, 6, 1.5), (40, 2, 1.0)])
def test_crops_are_counted_before_a_picture_is_read(shortest: int, most: int, ratio: float) -> None:
    own: Any = t.Gemma3ImageProcessor(size={"height": 14, "width": 14})
    words = {"min_crop_size": shortest, "max_num_crops": most, "min_ratio_to_activate": ratio}
    call = {"do_pan_and_scan": True, **{f"pan_and_scan_{word}": value for word, value in words.items()}}
    sides = (1, 27, 28, 29, 40, 55, 56, 57, 83, 84, 100, 113, 200, 299)
    found = set()
    for width, height in ((width, height) for width in sides for height in sides):
        tiling = pan_and_scan(width, height, shortest, most, ratio)
        (crops,) = own([picture(width, height)], return_tensors="pt", **call)["num_crops"].tolist()
        assert crops == (tiling.rows * tiling.cols if tiling.first else 0), (width, height)
        assert tiling.n == 1 + crops and (tiling.cols if width < height else tiling.rows) == 1
        found.add(crops)
    assert found == {0, *range(2, most + 1)}


TALKS: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[tuple[int, int], ...]]] = {
    "side by side": ((("image", "image", "Which?"),), (LONG, NEAR)),
    "uncut in front": ((("image", "image", "image", "What?"),), (SMALL, HIGH, LONG)),
    "in the middle of a text": ((("Is this ", "image", " or this: ", "image", " is it\n"),), (HIGH, LONG)),
    "in two turns": ((("image", "What?"), ("A cat.",), ("And ", "image", "?")), (NEAR, (120, 30))),
}


@pytest.mark.parametrize("name", TALKS)
@torch.no_grad()
def test_several_pictures_are_transformers_own(name: str, place: Path, model: MultimodalLM) -> None:
    """Ids, pixels, logits and answer of pictures that are cut beside others that are not."""
    turns, sizes = TALKS[name]
    images = tuple(picture(*size) for size in sizes)
    processor: Any = t.AutoProcessor.from_pretrained(place / "vlm")
    own = t.AutoModelForImageTextToText.from_pretrained(place / "vlm").eval()
    roles = ("user", "assistant", "user")
    messages = [
        {"role": role, "content": [{"type": "image"} if p == "image" else {"type": "text", "text": p} for p in parts]}
        for role, parts in zip(roles, turns, strict=False)
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    given = processor(text=[text], images=[list(images)], return_tensors="pt", **CALL)
    said = ["".join("<image>" if part == "image" else part for part in parts) for parts in turns]
    sample = Sample("s", tuple(map(Message, roles, said)), {"image": images})
    prompter = Prompter(model.llm.tokenizer, model.places)
    planned = plan(sample, prompter, model.inputs, 512, train=False)
    encoded = encode(sample, prompter, model.inputs, 512, train=False)
    found = torch.tensor(encoded.ids)
    for span in encoded.spans:
        found[span.start : span.start + span.length] = own.config.image_token_id
    assert found.tolist() == given["input_ids"][0].tolist() and planned.length == len(found)
    assert torch.equal(torch.cat([item["image"]["pixels"] for item in encoded.media["image"]]), given["pixel_values"])
    assert len(encoded.bidirectional) == len(given["pixel_values"]) > len(images)
    expected = own(**given).logits[0]
    batch = collate([encoded], model.inputs)
    torch.testing.assert_close(model.logits(batch), expected, atol=1e-4, rtol=1e-4)
    ids = own.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    (answer,) = Generator(model).generate([sample], 6, ())
    assert answer.text.strip() == processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()


def test_an_answer_is_learned_behind_crops(model: MultimodalLM) -> None:
    """Text around them is no label, whatever it is in front of; a picture that cannot be read is named."""
    prompter = Prompter(model.llm.tokenizer, model.places)
    sample = Sample("s", (Message("user", "<image>What?"), Message("assistant", "A.")), {"image": (picture(*LONG),)})
    encoded = encode(sample, prompter, model.inputs, 512, train=True)
    assert model.llm.tokenizer.decode([label for label in encoded.labels if label >= 0]).strip() == "A.<|im_end|>"
    shown = model.llm.tokenizer.decode(encoded.ids[: encoded.spans[0].start])
    assert shown.endswith("user\nHere is the original image \n\n<start_of_image>"), shown
    with pytest.raises(UnreadableError, match=r"s: image 1: image nowhere\.png does not exist"):
        encode(replace(sample, media={"image": ("nowhere.png",)}), prompter, model.inputs, 512, train=True)


def test_other_encoders_see_crops_too(place: Path) -> None:
    """Each brought to the tiles' square by itself; shown one by one."""
    tower = HfVisionEncoder(model=str(place / "vlm"), layers=["final"])
    words: dict[str, Any] = {"rule": "pan_and_scan", "most": 4, "shortest": 28, "ratio": 1.2}
    processor = TilesProcessor(tower.processor, **words)
    image = picture(*LONG)
    item = processor.read(image)
    crops = [image, image.crop((0, 0, 45, 40)), image.crop((45, 0, 90, 40))]
    assert torch.equal(item["pixels"], torch.stack([tower.processor.transform(one) for one in crops]))
    shown = view("<image>", processor, image, item)
    assert shown.facts.startswith("1 x 2 tiles and all of it") and shown.pictures[0][0] == "all of it"
    odd = picture(29, 115)
    assert processor.tiling_of(*odd.size) == Tiling(4, 1, first=True)
    last = odd.crop((0, 87, 29, 115))
    assert torch.equal(processor.read(odd)["pixels"][-1], tower.processor.transform(last))
    refused: Callable[..., Any] = TilesProcessor
    for change, sentence in (
        ({"most": 1}, "most: 1 must be at least 2, and no more than shortest: 28"),
        ({"most": 29}, "most: 29 must be at least 2"),
        ({"ratio": None}, "needs `shortest` and `ratio`; no other does"),
        ({"rule": "closest_ratio"}, "needs `shortest` and `ratio`; no other does"),
        ({"least": 2}, "takes as few tiles as may be; leave out least: 2"),
    ):
        with pytest.raises(MmllmError, match=sentence):
            refused(tower.processor, **{**words, **change})


def test_crops_that_a_recipe_asked_for_are_written(place: Path, tmp_path: Path) -> None:
    """Of a folder that does not ask for them; what is written does, and is taken with them again."""
    published_folder("Gemma3", tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    path = tmp_path / "run" / "recipe.yaml"
    words, cut = yaml.safe_load(path.read_text()), yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    inner = words["encoders"]["image"]
    words["encoders"]["image"] = {**cut["encoders"]["image"], "most": 3, "image": inner}
    words["connectors"]["image"]["tiles"] = cut["connectors"]["image"]["tiles"]
    recipe = parse(yaml.safe_dump(words, sort_keys=False), stages=False)
    mmllm.Model(build(recipe, "cpu"), recipe).save_pretrained(tmp_path / "cropping")
    stages = export_run(tmp_path / "cropping", "hf", tmp_path / "out")
    assert all(stage.equal for stage in stages)
    own: Any = t.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert own.do_pan_and_scan and (own.pan_and_scan_min_crop_size, own.pan_and_scan_max_num_crops) == (28, 3)
    import_checkpoint(str(tmp_path / "out"), tmp_path / "again")
    again = yaml.safe_load((tmp_path / "again" / "recipe.yaml").read_text())
    assert again["encoders"]["image"]["most"] == 3 and again["connectors"] == words["connectors"]
