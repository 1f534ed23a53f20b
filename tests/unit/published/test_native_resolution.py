"""Imported models whose pictures keep their size: several in a conversation, packed, cached, learning, cheaper ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml
from PIL import Image
from torch import Tensor

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.cli import main
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import MediaError, MmllmError, RecipeError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.inputs import Input
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import parse
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Message, Sample, Span
from tests.support.training import metrics, train_here

SHOWN = (picture(200, 90), picture(64, 48), picture(40, 64))
"""One that is brought down, one whose sides are multiples already, one on its side."""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistral")
    published_folder("Mistral3", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.fixture(scope="module")
def model(taken: Path) -> MultimodalLM:
    return mmllm.load(taken / "run").model


def sample(*turns: str, shown: int = 0, role: str = "user") -> Sample:
    """A conversation whose turns show the first pictures in order."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(turns))
    return Sample("talk", messages, {"image": SHOWN[:shown]} if shown else {})


TALKS = (
    sample("<image>\n<image>\nWhich is larger?", "The first.", "<image>\nAnd now?", shown=3),
    sample("Hello there.", "Hello.", "Say more."),
    sample("<image>\nWhat is it?", shown=1),
)


def encoded(model: MultimodalLM, one: Sample, train: bool = False) -> Encoded:
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn)
    return encode(one, prompter, model.inputs, model.llm.context, train=train)


@torch.inference_mode()
def test_two_sizes_in_one_conversation_and_a_third_later(taken: Path, model: MultimodalLM) -> None:
    processor = t.AutoProcessor.from_pretrained(taken / "vlm")
    theirs = t.AutoModelForImageTextToText.from_pretrained(taken / "vlm").eval()
    part = {"type": "image"}
    talk = [
        {"role": "user", "content": [part, part, {"type": "text", "text": "Which is larger?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The first."}]},
        {"role": "user", "content": [part, {"type": "text", "text": "And now?"}]},
    ]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    given = processor(text=[text], images=list(SHOWN), return_tensors="pt")
    ours = encoded(model, TALKS[0])
    ids = [token or processor.image_token_id for token in ours.ids]
    assert ids == given["input_ids"][0].tolist()
    # rows of blocks of 2 x 2 patches of 8: 4 x 2 of the first, 4 x 3 of the second, 3 x 4 of the third
    assert [span.length for span in ours.spans] == [4, 4, 4, 4, 4, 3, 3, 3, 3]
    assert ids.count(processor.image_break_token_id) == 6 and ids.count(processor.image_end_token_id) == 3
    expected, found = theirs(**given).logits[0], model.logits(collate([ours], model.inputs))
    assert (expected - found).abs().max() < 1e-5 * (expected.max() - expected.min())
    answer = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, len(ids) :]
    said = processor.tokenizer.decode(answer, skip_special_tokens=True).rstrip("\ufffd").strip()
    assert Generator(model).generate([TALKS[0]], 6)[0].text.strip() == said


def test_packed_is_unpacked_with_gradients(model: MultimodalLM) -> None:
    rows = [encoded(model, one) for one in TALKS]
    together = model.logits(collate(rows, model.inputs)).split([len(row.ids) for row in rows])
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, model.logits(collate([row], model.inputs)), rtol=1e-4, atol=1e-5)

    def gradients(batches: list[list[Encoded]]) -> dict[str, Tensor]:
        model.connectors.requires_grad_(True)
        model.zero_grad()
        torch.stack([model(collate(one, model.inputs))[0] for one in batches]).sum().backward()
        found = {name: weight.grad.clone() for name, weight in model.connectors.named_parameters()}
        model.connectors.requires_grad_(False)
        return found

    said = [sample("<image>\n<image>\nWhich?", "The left one.", shown=2), sample("<image>\nWhat?", "A sign.", shown=1)]
    learnt = [encoded(model, one, train=True) for one in said]
    packed, alone = gradients([learnt]), gradients([[one] for one in learnt])
    for name, found in packed.items():
        assert found.any()
        torch.testing.assert_close(found, alone[name], rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_answers_are_the_same_alone_together_and_gone_on(model: MultimodalLM) -> None:
    generator = Generator(model)
    together = [one.text for one in generator.generate(list(TALKS), 6)]
    assert together == [Generator(model).generate([one], 6)[0].text for one in TALKS]
    # what was read of the first conversation is kept, and its second question goes on from it
    first = Generator(model)
    first.generate([sample("<image>\n<image>\nWhich is larger?", shown=2)], 6)
    assert first.generate([TALKS[0]], 6)[0].text == together[0]


def test_rows_are_spans(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = mmllm.load(taken / "run").model.encoders["image"]
    connector = MlpConnector(dim=16, llm_dim=16)
    entry = Input("image", {"image": encoder}, connector, ItemText(rows="|"))
    item = entry.measure(SHOWN[2])
    assert entry.n_tokens() is None
    assert entry.layout(item) == [Span("" if row == 0 else "|", (1, 6), True) for row in range(8)]
    monkeypatch.setattr(connector, "out_grid", lambda grid: (4,))
    with pytest.raises(MediaError, match=r"gives a grid of \(4,\), and `rows` is text between rows of tokens"):
        entry.layout(item)
    words = "llm: {path: a}\nencoders: {e: {type: hf_native, model: a}}\nconnectors:\n  image: {type: mlp, from: e, "
    with pytest.raises(RecipeError, match="text stands at `rows` or at `times`, not at both; remove one"):
        parse(f'name: a\n{words}rows: "|", times: "x"}}\n', stages=False)
    with pytest.raises(RecipeError, match=r"lora.rows: .*without `from` has no places in the text"):
        parse(f'name: a\n{words.partition("  image")[0]}  lora: {{type: lora, rows: "|"}}\n', stages=False)


def test_smaller_pictures_learn_with_kept_features(taken: Path, tmp_path: Path, capsys: Any) -> None:
    """An imported run goes on with pictures of half the size; kept features change nothing."""
    rows = []
    for n, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (60 + 40 * n, 50), colour).save(tmp_path / f"{n}.png")
        rows.append({"image": f"{n}.png", "question": "What colour?", "answer": colour})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = yaml.safe_load((taken / "run" / "recipe.yaml").read_text())
    words["encoders"]["image"]["longest"] = 32
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 2, "batch": 4}
    losses = []
    for name, more in (("live", {}), ("kept", {"cache": {"dtype": "float32", "dir": str(tmp_path / "features")}})):
        words |= {"name": name, "stages": {"align": stage | more}, "start": str(taken / "run")}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(words, sort_keys=False))
        train_here(path, tmp_path / name)
        losses.append([row["loss"] for row in metrics(tmp_path / name)])
    assert losses[0][-1] < losses[0][0] and losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert main(["check", str(path)]) == 0 and main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "mistral3, 2 blocks" in said and "features of encoders.image: 4 items" in said
    assert main(["inspect", str(path), "--rows", "1"]) == 0
    assert "32 x 32 pixels in 4 x 4 patches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("Pixtral", {"vision_feature_select_strategy": "default"}, "drops the first patch .* has no class token there"),
        ("Mistral3", {"vision_feature_layer": [-1, -2]}, r"names several layers \(\[-1, -2\]\), and the norm of its"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(name: str, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = published_folder(name, tmp_path / "vlm", **changes)
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")


def test_a_processor_that_merges_otherwise(taken: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(taken / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial_merge_size": 1}))
    with pytest.raises(MmllmError, match="merges 2 patches a side, its processor counts 1; mend spatial_merge_size"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
