"""Idefics2 as a run: pictures of unlike shape in one row, its processor's text around them, as transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.processors.native.idefics2 import Idefics2Patching
from mmllm.processors.native.processor import Limits
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


def test_packed_is_unpacked(model: MultimodalLM) -> None:
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


def test_answers_are_the_same_beside_others(model: MultimodalLM) -> None:
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
