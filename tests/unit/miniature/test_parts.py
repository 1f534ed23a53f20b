"""The miniature parts: tokenizer, first weights, rows, resumable training, and what the committed parts can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

import mmllm.miniature.parts.clip
import mmllm.miniature.parts.lm
import mmllm.miniature.parts.pictures
import mmllm.miniature.parts.vit
from mmllm.errors import MmllmError
from mmllm.miniature.parts.clip import ClipPlan, TaughtClip, save_clip, train_clip
from mmllm.miniature.parts.clip_text import CONTEXT, build_clip_tokenizer
from mmllm.miniature.parts.lm import LmPlan, start_of, train_lm
from mmllm.miniature.parts.lm_acceptance import measure
from mmllm.miniature.parts.lm_rows import RowWriter
from mmllm.miniature.parts.lm_save import save_lm
from mmllm.miniature.parts.pictures import pictures, to_tensors
from mmllm.miniature.parts.probe import probe
from mmllm.miniature.parts.results import encode_clip, encode_vit, measure_part
from mmllm.miniature.parts.snapshot import save_snapshot
from mmllm.miniature.parts.tokenizer import build_tokenizer
from mmllm.miniature.parts.vit import VitPlan, train_vit
from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.text import recall
from mmllm.miniature.world.words import every_word
from tests.support.places import ROOT

HOME = ROOT / "data" / "mini"
TINY_LM = LmPlan(steps=4, lessons=4, rows=4, layers=2, save_every=2, gate_every=100, log_every=100)
TINY_VIT = VitPlan(steps=4, batch=4, width=32, layers=2, heads=2, save_every=2)
TINY_CLIP = ClipPlan(steps=4, batch=4, width=32, layers=2, save_every=2)


@pytest.fixture
def few_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmllm.miniature.parts.pictures, "CHARTS", 3)


def test_every_word_is_one_token_with_and_without_space() -> None:
    tokenizer = build_tokenizer()
    for word in every_word():
        assert len(tokenizer.encode(word)) == len(tokenizer.encode(" " + word)) == 1
    for text in ("[12,25,24,37]", "a1 red circle, b2 blue star\nwhat is at a1?", "héllo <b> 123"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chat_template_marks_exactly_the_answers() -> None:
    tokenizer = build_tokenizer()
    messages = [
        {"role": "system", "content": "answer"},
        {"role": "user", "content": "a1 red circle\nwhat is at a1?"},
        {"role": "assistant", "content": "red circle"},
        {"role": "user", "content": "how many circles?"},
        {"role": "assistant", "content": "1"},
    ]
    found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "red circle<|end|>1<|end|>"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("what is at a1?<|end|><|assistant|>")


def test_rows_weigh_answers_and_merge_facts() -> None:
    tokenizer = build_tokenizer()
    writer = RowWriter(tokenizer.backend_tokenizer)
    matter = Described("sound", (("t1", "low", "bell"),), (Ask("sound", "what is heard at t1?", "low bell"),), "")
    plain, merged = writer.plain(Random(0), matter, 0.0), writer.merged(Random(0), matter)
    for row in (plain, merged):
        answer = [p[0] for p, w in zip(row.positions, row.weights, strict=True) if w == 1.0]
        assert tokenizer.decode(answer) == "low bell<|end|>"
    (shared,) = [position for position in merged.positions if len(position) > 1]
    assert tokenizer.decode(shared) == " t1 low bell"


def test_first_weights_look_back_and_match() -> None:
    tokenizer = build_tokenizer()
    model = start_of(LmPlan(), tokenizer).eval()
    row = RowWriter(tokenizer.backend_tokenizer).repeated(Random(5), recall(Random(5), 6, 0))
    ids = [position[0] for position in row.positions]
    with torch.no_grad():
        seen = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    for head in range(4):
        assert seen[0][0, head].argmax(-1)[8:].tolist() == [at - head - 1 for at in range(8, len(ids))]
    for key in range(len(ids) // 2 + 1, len(ids) - 1, 2):
        assert ids[int(seen[1][0, 0, key].argmax())] == ids[key + 1]


def test_saved_lm_is_the_trained_one(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = start_of(LmPlan(layers=3), tokenizer).eval()
    save_lm(model, tokenizer, tmp_path)
    text = "a1 red circle, b2 blue star\nwhat is at a1? [12,25,24,37]"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(text) == tokenizer.encode(text)
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        assert torch.allclose(again, model(ids).logits, atol=1e-5)


def _cut(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_then_die(work: Path, model: nn.Module, opts: Sequence[torch.optim.Optimizer], step: int) -> None:
        save_snapshot(work, model, opts, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_snapshot", save_then_die)


@pytest.mark.slow
@pytest.mark.usefixtures("few_charts")
@pytest.mark.parametrize(
    ("module", "train", "plan", "weights"),
    [
        (mmllm.miniature.parts.lm, train_lm, TINY_LM, "model.safetensors"),
        (mmllm.miniature.parts.vit, train_vit, TINY_VIT, "model.safetensors"),
        (mmllm.miniature.parts.clip, train_clip, TINY_CLIP, "open_clip_model.safetensors"),
    ],
)
def test_a_killed_build_goes_on_with_the_same_bits(
    module: Any, train: Callable[..., None], plan: Any, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(plan, tmp_path / "whole_work", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _cut(module, patch)
        train(plan, tmp_path / "cut_work", tmp_path / "cut")
    train(plan, tmp_path / "cut_work", tmp_path / "cut")
    torch.set_num_threads(threads)
    whole, cut = load_file(tmp_path / "whole" / weights), load_file(tmp_path / "cut" / weights)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.usefixtures("few_charts")
def test_clip_folder_loads_as_open_clip_and_agrees(tmp_path: Path) -> None:
    model = TaughtClip(TINY_CLIP, build_clip_tokenizer()).eval()
    save_clip(model, TINY_CLIP, tmp_path)
    loaded, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    picture = pictures(Random(0), 1, False)[0]
    pixels = prepare(Image.fromarray(picture.pixels))[None]
    assert torch.allclose(pixels, to_tensors([picture])[0], atol=1e-6)
    words = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a1 red circle"])
    with torch.no_grad():
        assert words.shape == (1, CONTEXT)
        assert torch.allclose(loaded.encode_text(words, normalize=True), model.words(["a1 red circle"], 5), atol=1e-6)
        assert torch.allclose(loaded.encode_image(pixels, normalize=True), model.seen(pixels)[0], atol=1e-6)


def test_committed_lm_answers_from_text() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(HOME / "lm"), AutoTokenizer.from_pretrained(HOME / "lm")
    report = measure(model, tokenizer, 5)
    assert report["gate"] >= 0.9 and report["merged"] >= 0.85 and report["perplexity"] < 10
    prompt = [{"role": "user", "content": "b2 teal cross, d4 red star\nwhat is at d4?"}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == "red star"


@pytest.mark.parametrize("encode", [encode_vit, encode_clip])
def test_committed_encoders_give_patches(encode: Callable[..., Any]) -> None:
    pixels, _ = to_tensors(pictures(Random(0), 2, True, "scene"))
    with torch.no_grad():
        patches = encode(HOME / ("vit" if encode is encode_vit else "clip"), -2)(pixels)
    assert patches.shape == (2, 64, 128)
    assert patches.std() > 0.05


def test_vit_folder_reads_pictures_as_trained() -> None:
    picture = pictures(Random(1), 1, False, "scene")[0]
    pixels = AutoImageProcessor.from_pretrained(HOME / "vit")(Image.fromarray(picture.pixels), return_tensors="pt")
    assert torch.allclose(pixels["pixel_values"], to_tensors([picture])[0], atol=1e-5)
    assert AutoModel.from_pretrained(HOME / "vit").config.patch_size == 8


def test_missing_part_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"no miniature part at .* run `python -m mmllm.miniature build vit` first"):
        measure_part("vit", tmp_path)


@pytest.mark.slow
def test_committed_encoders_carry_what_recipes_read_off_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # drawing them takes long; of 120 documents some 30 are charts
    monkeypatch.setattr(mmllm.miniature.parts.pictures, "CHARTS", 40)
    monkeypatch.setattr(mmllm.miniature.parts.pictures, "HELD_OUT_CHARTS", 20)
    for part, encode in (("vit", encode_vit), ("clip", encode_clip)):
        report = probe(encode(HOME / part, -1), n_train=120, n_test=60)
        for name in ("scene color", "scene shape", "scene place", "document key", "document kind"):
            assert report[name] >= 0.95, (part, name, report)
        assert report["digit digit"] >= 0.8, (part, report)
