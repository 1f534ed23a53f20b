"""Idefics2 as a run: pictures of unlike shape in one row, whole or in quarters, its processor's text around them."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.errors import MediaError, MmllmError
from mmllm.generation.generator import Generator
from mmllm.inspection.views import view
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.processors.native.idefics2 import Idefics2Patching
from mmllm.processors.native.lfm2_vl import Lfm2VlPatching
from mmllm.processors.native.naflex import NaflexPatching
from mmllm.processors.native.processor import Limits
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Batch, Message, Place, Sample


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idefics2")
    published_folder("Idefics2", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.fixture
def model(place: Path) -> MultimodalLM:
    loaded: MultimodalLM = mmllm.load(place / "run").model
    return loaded


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose pictures are cut into quarters."""
    folder = tmp_path_factory.mktemp("split")
    published_folder("Idefics2Splitting", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.fixture
def quartered(split: Path) -> MultimodalLM:
    loaded: MultimodalLM = mmllm.load(split / "run").model
    return loaded


def row(model: MultimodalLM, samples: list[Sample], train: bool) -> Batch:
    prompter = Prompter(model.llm.tokenizer, model.places)
    return collate([encode(one, prompter, model.inputs, 512, train) for one in samples], model.inputs)


def about(text: str, *sizes: tuple[int, int]) -> Sample:
    messages = (Message("user", text), Message("assistant", "A test."))
    return Sample("one", messages, {"image": tuple(picture(*size) for size in sizes)})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<image>What?", ["", "What?"]),
        ("<image> What?", ["", " What?"]),
        ("<image><b>What?", ["", "<b>What?"]),
        ("Look: <image><image>What?", ["Look: ", "", "", "What?"]),
        ("Look: <image> and <image>.", ["Look: ", "", " and ", "", "."]),
        ("What <fake_token_around_image>is it?<image>", ["What <fake_token_around_image>is it?", ""]),
    ],
)
def test_its_text_around_pictures_is_the_processors(
    text: str, parts: list[str], place: Path, model: MultimodalLM
) -> None:
    """A token around, one between neighbours, a blank before a word; what a user types is text and none of it."""
    processor = t.AutoProcessor.from_pretrained(place / "vlm")
    content = [{"type": "text", "text": part} if part else {"type": "image"} for part in parts]
    rendered = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [picture(40, 30)] * parts.count("")
    expected = processor(text=[rendered], images=[images], return_tensors="pt")["input_ids"][0].tolist()
    sample = Sample("one", (Message("user", text),), {"image": tuple(images)})
    encoded = encode(sample, Prompter(model.llm.tokenizer, model.places), model.inputs, 512, train=False)
    found = list(encoded.ids)
    for span in encoded.spans:
        found[span.start : span.start + span.length] = [processor.image_token_id] * span.length
    if "<fake" in text:
        # transformers reads it as the token; a typed control token is text here, in every run
        assert found.count(processor.tokenizer.convert_tokens_to_ids("<fake_token_around_image>")) == 2
    else:
        assert found == expected


@pytest.mark.parametrize("kind", ["model", "quartered"])
def test_packed_is_unpacked(kind: str, request: pytest.FixtureRequest) -> None:
    model: MultimodalLM = request.getfixturevalue(kind)
    set_trainable(model, {"connectors.image": 1e-2})
    samples = [about("<image>\nWhat?", (50, 30)), about("Text."), about("<image>\nWho?", (30, 50))]

    def gradients(batches: list[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = torch.stack([model.train()(batch)[0] for batch in batches]).sum()
        total.backward()
        return total.detach(), {name: one.grad.clone() for name, one in model.connectors.named_parameters()}

    loss, together = gradients([row(model, samples, True)])
    each, alone = gradients([row(model, [one], True) for one in samples])
    torch.testing.assert_close(loss, each)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], atol=1e-4, rtol=1e-3, msg=name)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["model", "quartered"])
def test_answers_are_the_same_beside_others(kind: str, request: pytest.FixtureRequest) -> None:
    model: MultimodalLM = request.getfixturevalue(kind)
    asked = [Sample("a", (Message("user", "<image>\nWhat?"),), {"image": (picture(*s),)}) for s in ((50, 30), (20, 90))]
    alone = [Generator(model).generate([one], 6)[0].text for one in asked]
    assert [one.text for one in Generator(model).generate(asked, 6)] == alone


@pytest.mark.parametrize("size", [(57, 56), (56, 57), (100, 99), (1, 200), (200, 1), (56, 56), (8, 9), (333, 250)])
def test_patches_are_counted_before_a_picture_is_read(size: tuple[int, int]) -> None:
    own: Any = t.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 21})
    patching = Idefics2Patching.of(own, 7, Limits())
    image = picture(*size)
    patches = patching.patches(image)
    grid = patching.grid(*size)
    pixels = own([image], return_tensors="pt", do_image_splitting=False)["pixel_values"][0, 0]
    rows, cols = pixels.shape[1] // 7, pixels.shape[2] // 7
    assert grid == (rows, cols) and len(patches) == rows * cols
    assert torch.equal(patching.pixels(patches, grid), pixels[:, : rows * 7, : cols * 7])


@pytest.mark.parametrize("question", ["<image>\n<audio>\nWhat?", "<image><audio>What?", "<audio> <image>\nWhat?"])
def test_what_stands_behind_a_picture_may_be_another_item(question: str, model: MultimodalLM) -> None:
    """Its template looks at the first letter of what follows, which marks of messages must not be taken for."""
    tokenizer = model.llm.tokenizer
    prompter = Prompter(tokenizer, [Place("image", "<image>"), Place("audio")])
    talk = (Message("user", question), Message("assistant", "A bell."))
    prompt = prompter.tokenize_for_training(Sample("both", talk, {"image": (1,), "audio": (1,)}))
    assert sorted(key for _, key in prompt.places) == ["audio", "image"]
    assert tokenizer.decode([one for one in prompt.labels if one >= 0]).startswith("A bell.")


@pytest.mark.parametrize("question", ["{0}{0}What?", "{0}and {0}<b>", "Look: {0} {0} what {0}?"])
def test_several_quartered_pictures_are_transformers_own(question: str, split: Path, quartered: MultimodalLM) -> None:
    processor = t.AutoProcessor.from_pretrained(split / "vlm")
    theirs = t.Idefics2ForConditionalGeneration.from_pretrained(split / "vlm", dtype=torch.float32).eval()
    images = [picture(*size) for size in ((70, 40), (33, 64), (2, 5))][: question.count("{0}")]
    # between two marks stands text, or nothing
    content: list[dict[str, str]] = []
    for number, text in enumerate(question.split("{0}")):
        content += [{"type": "image"}] * bool(number) + [{"type": "text", "text": text}] * bool(text)
    rendered = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = processor(text=[rendered], images=[images], return_tensors="pt")
    assert given["pixel_values"].shape[1] == 5 * len(images)
    sample = Sample("one", (Message("user", question.format("<image>")),), {"image": tuple(images)})
    batch = row(quartered, [sample], False)
    place = given["input_ids"][0] == processor.image_token_id
    assert batch.media_positions["image"].tolist() == place.nonzero().flatten().tolist()
    assert torch.equal(batch.input_ids[~place], given["input_ids"][0][~place])
    with torch.inference_mode():
        torch.testing.assert_close(quartered.logits(batch), theirs(**given).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(57, 55), (2, 2), (3, 300), (300, 3), (113, 111), (333, 250)])
def test_quarters_are_counted_before_a_picture_is_read(size: tuple[int, int]) -> None:
    own: Any = t.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 21}, do_image_splitting=True)
    processor = NativeTilesProcessor(Idefics2Patching.of(own, 7, Limits()), "quarters")
    image = picture(*size)
    found = own([image], return_tensors="pt")
    grids = [(int(one[:, 0].sum()) // 7, int(one[0].sum()) // 7) for one in found["pixel_attention_mask"][0]]
    assert processor.pictures(processor.cut(image)) == grids and len(grids) == 5
    item = processor.read(image)
    assert item["pictures"].tolist() == [list(grid) for grid in grids]
    assert processor.grid(processor.measure(image)) == (sum(map(prod, grids)),) == (len(item["patches"]),)
    for mine, there, (rows, cols) in zip(processor.pixels(item), found["pixel_values"][0], grids, strict=True):
        assert torch.equal(mine, there[:, : rows * 7, : cols * 7])


def test_tokens_of_quarters_follow_from_a_header(quartered: MultimodalLM) -> None:
    entry = quartered.inputs["image"]
    spans = entry.layout(entry.measure(picture(70, 40)))
    assert [span.length for span in spans] == [3] * 5
    assert [span.separator for span in spans] == ["", *["<fake_token_around_image>"] * 4]
    processor = entry.processors["image"]
    shown = view("<image>", processor, picture(70, 40), processor.read(picture(70, 40)))
    assert shown.facts.startswith("2 x 2 tiles and all of it, 35 x 21 and 56 x 28 pixels; ")
    assert torch.equal(processor.blank()["pictures"], torch.tensor([[3, 3]] * 5))


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_a_line_has_no_quarters(size: tuple[int, int], quartered: MultimodalLM) -> None:
    own: Any = t.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 21}, do_image_splitting=True)
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        own([picture(*size)], return_tensors="pt")
    entry = quartered.inputs["image"]
    for asked in (entry.measure, entry.read):
        with pytest.raises(MediaError, match=rf"of {size[0]} x {size[1]} pixels cannot be cut into quarters; give one"):
            asked(picture(*size))


def test_a_quarter_without_a_patch_is_refused() -> None:
    own: Any = t.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 3})
    processor = NativeTilesProcessor(Idefics2Patching.of(own, 7, Limits()), "quarters")
    assert processor.pictures(processor.cut(picture(14, 15))) == [(1, 1)] * 4 + [(2, 2)]
    for asked in (processor.measure, processor.read):
        with pytest.raises(
            MediaError, match="of 13 x 15 pixels is so narrow that resizing leaves a tile of it no patch"
        ):
            asked(picture(13, 15))


def test_other_words_than_the_image_processors() -> None:
    patching = Idefics2Patching.of(t.Idefics2ImageProcessor(), 14, Limits())
    with pytest.raises(
        MmllmError, match=r"tiles: \[2, 10\]: .*\(Idefics2ImageProcessor\) cuts .* write tiles: quarters"
    ):
        NativeTilesProcessor(patching, [2, 10])
    large = Lfm2VlPatching.of(t.Lfm2VlImageProcessor(), 16, Limits())
    with pytest.raises(
        MmllmError, match=r"tiles: quarters must be \[least, most\], .* the folder's Lfm2VlImageProcessor"
    ):
        NativeTilesProcessor(large, "quarters")
    plain = NaflexPatching.of(t.Siglip2ImageProcessor(), 16, Limits())
    with pytest.raises(MmllmError, match=r"tiles: quarters: .*\(Siglip2ImageProcessor\) cuts no pictures"):
        NativeTilesProcessor(plain, "quarters")


def test_quarters_that_are_not_padded_are_refused(split: Path, tmp_path: Path) -> None:
    shutil.copytree(split / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / "processor_config.json"
    said = json.loads(path.read_text())
    said["image_processor"]["do_pad"] = False
    path.write_text(json.dumps(said))
    with pytest.raises(MmllmError, match=r"does not pad them to one size \(do_pad: false\).*: --no-tiles"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
