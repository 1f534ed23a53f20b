"""Published models that are not causal everywhere: what their own processors and classes make of more than one picture,
and of an answer that is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.errors import MmllmError, SampleError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import CASES, published_folder
from mmllm.types import Message, Sample

ONE, TWO = picture(90, 60), picture(50, 80)


def taken(case: str, folder: Path) -> MultimodalLM:
    made = CASES[case]
    published_folder(made.name, folder / "vlm", **made.changes)
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return mmllm.load(folder / "run").model


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultimodalLM]:
    folder = tmp_path_factory.mktemp("gemma3")
    return folder, taken("Gemma 3", folder)


@pytest.fixture(scope="module")
def paligemma2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultimodalLM]:
    folder = tmp_path_factory.mktemp("paligemma")
    return folder, taken("PaliGemma 2", folder)


def theirs(folder: Path, **words: Any) -> tuple[Any, Any]:
    """Transformers' model and processor."""
    model = t.AutoModelForImageTextToText.from_pretrained(folder / "vlm", **words).eval()
    return model, t.AutoProcessor.from_pretrained(folder / "vlm")


def prompter(model: MultimodalLM) -> Prompter:
    return Prompter(model.llm.tokenizer, model.places, prefix=model.llm.prefix)


TALKS = {
    "side by side": ((("image", "image", "Which?"),), (ONE, TWO)),
    "in the middle of a text": ((("Is this ", "image", " or this: ", "image", " is it\n"),), (ONE, TWO)),
    "in two turns": ((("image", "What?"), ("A cat.",), ("And ", "image", "?")), (ONE, TWO)),
}


@pytest.mark.parametrize("name", TALKS)
@torch.no_grad()
def test_several_pictures_of_gemma_3(name: str, gemma3: tuple[Path, MultimodalLM]) -> None:
    """Their ids, logits and answer are transformers' own, also where line breaks around pictures meet; each picture's
    tokens see each other, two side by side do not."""
    folder, model = gemma3
    turns, images = TALKS[name]
    own, processor = theirs(folder)
    messages = [
        {"role": role, "content": [{"type": "image"} if p == "image" else {"type": "text", "text": p} for p in parts]}
        for role, parts in zip(["user", "assistant", "user"], turns, strict=False)
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    given = processor(text=[text], images=list(images), return_tensors="pt")
    said = ["".join("<image>" if part == "image" else part for part in parts) for parts in turns]
    roles = ("user", "assistant", "user")
    sample = Sample("s", tuple(map(Message, roles, said)), {"image": images})
    encoded = encode(sample, prompter(model), model.inputs, 512, train=False)
    found = torch.tensor(encoded.ids)
    for span in encoded.spans:
        found[span.start : span.start + span.length] = own.config.image_token_id
    assert found.tolist() == given["input_ids"][0].tolist()
    assert len(encoded.bidirectional) == 2
    expected = own(**given).logits[0]
    batch = collate([encoded], model.inputs)
    torch.testing.assert_close(model.logits(batch), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.prefill(batch).logits[0], expected[-1], atol=1e-4, rtol=1e-4)
    ids = own.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    (answer,) = Generator(model).generate([sample], 6, ())
    assert answer.text.strip() == processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its processor, with numpy 2
@pytest.mark.parametrize(("case", "attention"), [("PaliGemma", "sdpa"), ("PaliGemma 2", "eager")])
def test_an_answer_that_is_learned_is_paligemmas_suffix(
    case: str, attention: str, paligemma2: tuple[Path, MultimodalLM], tmp_path: Path
) -> None:
    """The same ids, labels and loss as its own processor and class with a suffix, in a pack of three too."""
    folder, model = paligemma2 if case == "PaliGemma 2" else (tmp_path, taken(case, tmp_path))
    own, processor = theirs(folder, attn_implementation=attention)  # Gemma 2 has no other than eager
    asked = (("What is it?", "A cat.", ONE), ("Where?", "On the mat", TWO))
    losses, encoded = [], []
    for question, answer, image in asked:
        given = processor(text=["<image>" + question], images=[image], suffix=[answer], return_tensors="pt")
        sample = Sample("s", (Message("user", f"<image>{question}"), Message("assistant", answer)), {"image": (image,)})
        encoded.append(encode(sample, prompter(model), model.inputs, 512, train=True))
        assert encoded[-1].labels == given["labels"][0].tolist()
        assert encoded[-1].prefix == int((given["token_type_ids"] == 0).sum())
        with torch.no_grad():
            losses.append(float(own(**given).loss) * encoded[-1].n_labels)
    text = Sample("t", (Message("user", "Say"), Message("assistant", "Yes.")), {})
    alone = encode(text, prompter(model), model.inputs, 512, train=True)
    with torch.no_grad():
        more = float(model(collate([alone], model.inputs))[0])
        found, _, _ = model(collate([encoded[0], alone, encoded[1]], model.inputs))
    assert float(found) == pytest.approx(sum(losses) + more, rel=1e-5)


def test_paligemma_is_asked_one_question(paligemma2: tuple[Path, MultimodalLM], tmp_path: Path) -> None:
    _, model = paligemma2
    turns = (Message("user", "What?"), Message("assistant", "A cat."), Message("user", "Where?"))
    with pytest.raises(SampleError, match="PaliGemma is asked one question"):
        Generator(model).encode(Sample("s", turns, {}))
    published_folder("PaliGemma", tmp_path / "vlm")
    processor = t.AutoProcessor.from_pretrained(tmp_path / "vlm")
    processor.chat_template = "{{ messages[0].content }}"
    processor.save_pretrained(tmp_path / "vlm")
    with pytest.raises(MmllmError, match=r"\(PaliGemma\) has a chat template, and its processor writes"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")


@pytest.mark.parametrize(("case", "name"), [("Gemma 3", "gemma3"), ("PaliGemma", "paligemma")])
def test_attention_that_was_left_causal_is_found(
    case: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    from dataclasses import replace

    module = importlib.import_module(f"mmllm.published.architectures.{name}")
    right = module.sections

    def wrong(source: Any) -> Any:
        found = right(source)
        found.connectors["image"].pop("attends", None)
        return replace(found, llm={})

    monkeypatch.setattr(module, "sections", wrong)
    with pytest.raises(MmllmError, match=r"differs from transformers' own model first in its logits \(333 x 250\)"):
        taken(case, tmp_path)


def test_the_words_of_such_runs(gemma3: tuple[Path, MultimodalLM], paligemma2: tuple[Path, MultimodalLM]) -> None:
    words = yaml.safe_load((gemma3[0] / "run" / "recipe.yaml").read_text())
    assert words["connectors"]["image"]["attends"] == "bidirectional" and "attention" not in words["llm"]
    words = yaml.safe_load((paligemma2[0] / "run" / "recipe.yaml").read_text())
    assert words["llm"]["attention"] == "prefix" and "attends" not in words["connectors"]["image"]
