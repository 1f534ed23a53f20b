"""Llama 3.2 Vision, imported: pictures anywhere in a conversation, older and newer files, keys that are used again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.connectors.deep_fusion.cross_attention_layers.cross_attention_layers import CrossAttentionLayersConnector
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.mllama_vision import MllamaVisionEncoder
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.architectures.mllama import begun
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.models import Start
from mmllm.testing.tiny.published import published_folder
from mmllm.testing.tiny.published.mllama import BARE
from mmllm.types import Message, Place, Sample

ONE, FOUR = picture(20, 16), picture(90, 70)
"""Pictures of one tile and of four."""
Talk = tuple[tuple[tuple[str, str], ...], tuple[Image.Image, ...]]
TALKS: dict[str, Talk] = {
    "in the middle": ((("user", "Look at this <image> sign."),), (FOUR,)),
    "at the start": ((("user", "<image>What is it?"),), (ONE,)),
    "two side by side": ((("user", "Here: <image><image>Which?"),), (ONE, FOUR)),
    "three, two of them side by side": ((("user", "<image><image>a <image>b?"),), (FOUR, ONE, ONE)),
    "in two turns": ((("user", "<image>One."), ("assistant", "A."), ("user", "Then <image> two?")), (FOUR, ONE)),
    "none": ((("user", "What is a sign?"),), ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mllama")
    # two of its blocks read pictures, one of them behind the last of text
    text = {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]}
    published_folder("Mllama", place / "vlm", text=text)
    import_checkpoint(str(place / "vlm"), place / "run")
    return place


@pytest.fixture(scope="module")
def ours(folder: Path) -> MultimodalLM:
    return mmllm.load(folder / "run").model


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return t.MllamaForConditionalGeneration.from_pretrained(folder / "vlm").eval()


def sample(name: str) -> Sample:
    talk, shown = TALKS[name]
    messages = tuple(Message(role, text) for role, text in talk)
    return Sample(name, messages, {"image": shown} if shown else {})


def encoded(model: MultimodalLM, asked: Sample) -> Encoded:
    prompter = Prompter(model.llm.tokenizer, model.places)
    return encode(asked, prompter, model.inputs, 512, train=False)


def given(folder: Path, name: str) -> dict[str, Any]:
    """What transformers' own processor makes of a conversation."""
    talk, shown = TALKS[name]
    processor = t.AutoProcessor.from_pretrained(folder / "vlm")
    messages = []
    for role, said in talk:
        pieces = [piece for piece in re.split("(<image>)", said) if piece]
        parts = [{"type": "image"} if one == "<image>" else {"type": "text", "text": one} for one in pieces]
        messages.append({"role": role, "content": parts})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return dict(processor(text=[text], images=[list(shown)] if shown else None, return_tensors="pt"))


@torch.no_grad()
def test_pictures_anywhere_in_a_conversation(folder: Path, ours: MultimodalLM, theirs: Any) -> None:
    """Logits at every position and greedy answers are transformers' own; ours are of all conversations in one row."""
    made = [encoded(ours, sample(name)) for name in TALKS]
    packed = ours.logits(collate(made, ours.inputs)).split([len(one.ids) for one in made])
    answers = Generator(ours).generate([sample(name) for name in TALKS], 8, ())
    for name, one, logits, answer in zip(TALKS, made, packed, answers, strict=True):
        inputs = given(folder, name)
        assert one.ids == inputs["input_ids"][0].tolist(), name
        expected = theirs(**inputs).logits[0]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        ids = theirs.generate(**inputs, max_new_tokens=8, do_sample=False)[0, len(one.ids) :]
        text = ours.llm.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
        assert answer.text.strip() == text, name


@torch.no_grad()
def test_text_in_front_of_a_picture_changes_with_it(folder: Path, ours: MultimodalLM) -> None:
    """As the published model has it; with reads_ahead: false it does not, and what is behind the picture still does."""
    one, other = sample("in the middle"), replace(sample("in the middle"), media={"image": (picture(90, 71),)})
    start = encoded(ours, one).spans[0].start
    recipe = mmllm.load_recipe(folder / "run", ["connectors.image.reads_ahead=false"])
    found = []
    for model in (ours, with_words(ours, recipe)):
        first, second = (model.logits(collate([encoded(model, asked)], model.inputs)) for asked in (one, other))
        found.append([float((a - b).abs().max()) for a, b in zip(first.split(start), second.split(start), strict=True)])
    (before, behind), (untouched, read) = (pair[:2] for pair in found)
    assert before > 1e-3 and behind > 1e-3 and untouched == 0 and read > 1e-3


def with_words(model: MultimodalLM, recipe: Any) -> MultimodalLM:
    """The same weights under another recipe."""
    from mmllm.model.build import build

    made = build(recipe, "cpu")
    made.load_state_dict(model.state_dict())
    return made


def test_keys_are_used_again_where_the_pictures_are_the_same(ours: MultimodalLM) -> None:
    """Two questions behind a long beginning and one picture share it; another picture shares nothing of it."""
    words = "The sign by the road is what we look at in this long conversation about signs. <image>"
    asked = [
        Sample(str(number), (Message("user", f"{words} {question}"),), {"image": (shown,)})
        for number, (question, shown) in enumerate([("Red?", FOUR), ("Blue?", FOUR), ("Red?", ONE), ("Red?", FOUR)])
    ]
    kept, found = Generator(ours), []
    for one in asked:
        deltas = list(kept.stream(one, 6))
        found.append(("".join(delta.text for delta in deltas), deltas[-1].cached_tokens))
    assert [text for text, _ in found] == [Generator(ours).generate([one], 6, ())[0].text for one in asked]
    reused = [known for _, known in found]
    assert reused[0] == reused[2] == 0 and reused[1] > 16 and reused[3] > 16


def test_the_first_token_stands_behind_pictures_in_front(folder: Path) -> None:
    """Where its processor would put it; and what the assistant says is found, though no marks can tell any more."""
    tokenizer = t.AutoTokenizer.from_pretrained(folder / "vlm")
    tokenizer.chat_template = begun("<|image|>", BARE.replace("MARK", "<|image|>"))
    prompter = Prompter(tokenizer, [Place("image", "<|image|>", "image", ("", "<|image|>"))])
    said = (Message("user", "<image><image>What is it?"), Message("assistant", "A sign."))
    prompt = prompter.tokenize_for_training(Sample("one", said, {"image": (ONE, FOUR)}))
    assert [key for _, key in prompt.places] == ["image"] * 2 and [place for place, _ in prompt.places] == [0, 2]
    assert prompt.ids[4] == tokenizer.bos_token_id and prompt.ids.count(tokenizer.bos_token_id) == 1
    learned = [number for number, label in zip(prompt.ids, prompt.labels, strict=True) if label == number]
    assert tokenizer.decode(learned) == "A sign.<|im_end|>"
    alone = prompter.tokenize_prompt(Sample("two", (Message("user", "What is it?"),)))
    assert alone.ids[0] == tokenizer.bos_token_id


def test_newer_names_of_the_files(folder: Path, tmp_path: Path) -> None:
    """As the model in memory calls them; what transformers 5.23 writes are the older ones."""
    import shutil

    shutil.copytree(folder / "vlm", tmp_path / "vlm")
    file = tmp_path / "vlm" / "model.safetensors"
    tensors = load_file(file)
    assert "language_model.model.layers.1.cross_attn.q_proj.weight" in tensors

    def newer(name: str) -> str:
        if name.startswith("language_model.lm_head."):
            return name.removeprefix("language_model.")
        return f"model.{name}".replace("model.language_model.model.", "model.language_model.")

    save_file({newer(name): tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    assert all(stage.equal for stage in import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run"))


def test_towers_are_taken_by_their_encoders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"is Llama 3\.2 Vision, whose tower has an encoder of its own: mllama_vision"):
        HfVisionEncoder(model=str(folder / "vlm"))
    published_folder("Llava", tmp_path / "llava")
    with pytest.raises(MmllmError, match=r"is a llava, whose tower is clip_vision_model; .* mllama_vision takes a mll"):
        MllamaVisionEncoder(model=str(tmp_path / "llava"))


def test_pictures_are_never_whole(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="whose tower reads pictures in tiles alone; leave --no-tiles out"):
        import_checkpoint(str(folder / "vlm"), tmp_path / "run", tiles=False)


def test_blocks_of_the_published_model_begin_a_connector(folder: Path, ours: MultimodalLM) -> None:
    """``start: FOLDER`` in a recipe of one's own: the same tensors, whatever is in front of a picture."""
    from mmllm.model.start import load_start

    recipe = mmllm.load_recipe(folder / "run", ["connectors.image.reads_ahead=false"])
    own = recipe.connectors["image"]
    words = {word: value for word, value in own.args.items() if word != "activation"}
    part = own.model_copy(update={"start": Start(path=str(folder / "vlm")), "args": words})
    fresh = with_words(ours, recipe)
    connector = fresh.connectors["image"]
    assert isinstance(connector, CrossAttentionLayersConnector)
    with torch.no_grad():
        for tensor in connector.parameters():
            tensor.zero_()
    started = load_start("image", part, connector)
    assert len(started.taken) == len(connector.state_dict()) and not started.left
    for name, tensor in ours.connectors["image"].state_dict().items():
        assert torch.equal(tensor, connector.state_dict()[name]), name
