"""Imported Qwen-VL models beyond one picture: several of unlike size, old folders, training, other towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers as t
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers.video_utils import VideoMetadata

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.checkpoints.store import LEARNED
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import load_trainable
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import parse
from mmllm.testing.tiny.encoders import clip
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Message, PositionScheme, Sample
from tests.support.training import metrics, train_here

KINDS = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")
PICTURES = (picture(90, 40), picture(40, 90))
TURNS = (("user", "What is on it?"), ("assistant", "A test."), ("user", "And here, is it the same?"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("qwen")
    for kind in KINDS:
        import_checkpoint(str(published_folder(kind, place / kind)), place / f"{kind}-run")
    return place


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_two_pictures_of_unlike_size_in_two_turns(kind: str, runs: Path) -> None:
    processor = t.AutoProcessor.from_pretrained(runs / kind)
    theirs = t.AutoModelForImageTextToText.from_pretrained(runs / kind).eval()
    talk = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TURNS]
    for place in (0, 2):
        talk[place]["content"].insert(0, {"type": "image"})
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    given = processor(text=[text], images=list(PICTURES), return_tensors="pt")
    loaded = mmllm.load(runs / f"{kind}-run")
    ours = loaded.model
    shown = tuple(
        Message(role, ("<image>\n" if number != 1 else "") + text) for number, (role, text) in enumerate(TURNS)
    )
    sample = Sample("two", shown, {"image": PICTURES})
    encoded = encode(sample, Prompter(ours.llm.tokenizer, ours.places), ours.inputs, 512, train=False)
    found = ours.logits(collate([encoded], ours.inputs, ours.llm.positions))
    expected = theirs(**given).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    ids = theirs.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
    alone = loaded.generator.generate([sample], 8)[0].text
    assert alone.strip() == answer
    # beside others, in one row
    others = [Sample("text", (Message("user", "Hi"),)), Sample("one", shown[:1], {"image": PICTURES[1:]})]
    assert loaded.generator.generate([others[0], sample, others[1]], 8)[1].text == alone


def seeing_clips(run: Path) -> MultimodalLM:
    """The imported recipe with more frames of a second; weights published."""
    words = yaml.safe_load((run / "recipe.yaml").read_text())
    words["encoders"]["video"] |= {"frames": 5, "fps": 5.0}
    recipe = parse(yaml.safe_dump(words, sort_keys=False), stages=False)
    model = build(recipe, "cpu")
    load_trainable(model, load_file(run / "stages" / "imported" / "step-0" / LEARNED))
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_clips_and_pictures_in_one_conversation(kind: str, runs: Path) -> None:
    """Five frames make three pairs, so time goes beyond rows and columns, and text goes on below it; in Qwen3-VL each
    pair has a text of its own."""
    processor = t.AutoProcessor.from_pretrained(runs / kind)
    theirs = t.AutoModelForImageTextToText.from_pretrained(runs / kind).eval()
    ours = seeing_clips(runs / f"{kind}-run")
    film = clip((200, 30, 30), 5)
    frames = ours.encoders["video"].processor.reading.read(film)
    assert frames.seconds == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    content = [
        {"type": "video"},
        {"type": "text", "text": "Like"},
        {"type": "image"},
        {"type": "text", "text": "this?"},
    ]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = VideoMetadata(total_num_frames=5, fps=5.0, frames_indices=list(range(5)))
    given = processor(
        text=[text], images=[PICTURES[0]], videos=[numpy.stack(frames.frames)], video_metadata=[metadata],
        do_sample_frames=False, return_tensors="pt",
    )  # fmt: skip
    message = Message("user", "<video>Like<image>this?")
    sample = Sample("both", (message,), {"video": (film,), "image": PICTURES[:1]})
    encoded = encode(sample, Prompter(ours.llm.tokenizer, ours.places), ours.inputs, 512, train=False)
    batch = collate([encoded], ours.inputs, ours.llm.positions)
    if kind == "Qwen3VL":
        assert [span.grid for span in encoded.spans[:3]] == [(1, 2, 2)] * 3
        said = ours.llm.tokenizer.decode(encoded.ids)
        assert [f"<{s} seconds>" in said for s in (0.1, 0.5, 0.8)] == [True] * 3
    else:
        assert encoded.spans[0].grid == (3, 2, 2) and encoded.spans[0].interval == pytest.approx(0.4)
    assert torch.equal(batch.media["video"]["video"]["patches"], given["pixel_values_videos"])
    found = ours.logits(batch)
    expected = theirs(**given).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    ids = theirs.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
    assert Generator(ours).generate([sample], 8)[0].text == answer
    if kind == "Qwen2_5_VL":
        assert float(given["second_per_grid_ts"][0]) == pytest.approx(0.4)
        unlike = theirs(**{**given, "second_per_grid_ts": torch.tensor([3.0])}).logits[0]
        assert (unlike - expected).abs().max() > 1e-3, "time matters"


def test_old_folders_say_mrope_and_keep_the_text_config_flat(tmp_path: Path) -> None:
    folder = published_folder("Qwen2VL", tmp_path / "vlm")
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    old = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    config |= {**text, "model_type": "qwen2_vl", "rope_scaling": old, "rope_theta": rope["rope_theta"]}
    config["vision_config"]["model_type"] = "qwen2_vl"
    (folder / "config.json").write_text(json.dumps(config))
    pictures = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    size = pictures.pop("size")
    pictures |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    stages = import_checkpoint(str(folder), tmp_path / "run")
    assert len(stages) == 17
    assert mmllm.load(tmp_path / "run").model.llm.positions == PositionScheme("mrope")


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (
            "Qwen3VL",
            {"tower": {"deepstack_visual_indexes": [1, 0]}},
            r"deepstack_visual_indexes: \[1, 0\] are not in rising order",
        ),
        (
            "Qwen3VL",
            {"tower": {"deepstack_visual_indexes": [0, 1]}},
            "2 stacks from block 1 on, 1 apart, end before block 2, but the LLM has 0..1",
        ),
    ],
)
def test_what_cannot_be_imported(kind: str, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = published_folder(kind, tmp_path / "vlm", **changes)
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vlm"]


def test_an_imported_model_is_checked_planned_shown_and_trained(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several questions about a picture share their beginning; the connector of inner layers learns too."""
    import_checkpoint(str(runs / "Qwen3VL"), tmp_path / "run")
    path = tmp_path / "run" / "recipe.yaml"
    rows = []
    for n, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60 + 40 * n, 50), colour).save(tmp_path / f"{n}.png")
        asked = (("What colour?", colour), ("Is it green?", "no"), ("A sign?", "yes"))
        rows += [{"image": f"{n}.png", "question": question, "answer": answer} for question, answer in asked]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = yaml.safe_load(path.read_text())
    words["data"] = {"signs": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.image": 1e-2}, "data": {"signs": 1.0}, "steps": 6, "batch": 6}
    words["stages"] = {"signs": {**stage, "share_prefix": True}}
    path.write_text(yaml.safe_dump(words, sort_keys=False))
    for command in (["check"], ["plan"], ["inspect"]):
        assert main([*command, str(path)]) == 0, capsys.readouterr()
    shown = capsys.readouterr().out
    assert "8 x 8 = 64 tokens of" in shown and "[<image> 1 x 16]" in shown
    train_here(path, tmp_path / "run")
    losses = [row["loss"] for row in metrics(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_the_llm_counts_on_three_axes_behind_another_tower(runs: Path, tmp_path: Path) -> None:
    """Qwen2-VL with a SigLIP in place of its tower: one line of the recipe; its positions stay."""
    config = t.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    t.SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    t.SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "siglip")
    words = yaml.safe_load((runs / "Qwen2VL-run" / "recipe.yaml").read_text())
    words["encoders"]["image"] = {"type": "hf_vision", "model": str(tmp_path / "siglip")}
    model = build(parse(yaml.safe_dump(words), stages=False))
    sample = Sample("one", (Message("user", "<image>\nWhat?"),), {"image": PICTURES[:1]})
    encoded = encode(sample, Prompter(model.llm.tokenizer, model.places), model.inputs, 512, train=False)
    (span,) = encoded.spans
    found = collate([encoded], model.inputs, model.llm.positions).position_ids
    assert span.grid == (2, 2) and found.shape[0] == 3
    assert (found[1:, span.start : span.start + 4] - span.start).tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert found[:, span.start + 4].tolist() == [span.start + 2] * 3
