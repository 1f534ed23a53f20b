"""``distill: text``: the loss beside one computed by hand from transformers' own passes, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from mmllm.batches.teacher import in_words
from mmllm.datasets.fsdd import Fsdd
from mmllm.errors import MmllmError, RecipeError, SampleError
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.load import dump, load_recipe, parse
from mmllm.training.stage_data import datasets_of, loader_of
from mmllm.types import IGNORE_INDEX, Batch, Message, Sample
from tests.support.training import metrics, tiny_recipe, train_here

WEIGHT = 0.3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of eight colours whose rows also say in words what they show, seven of them."""
    path = tiny_recipe(tmp_path_factory.mktemp("distilled"))
    rows = [json.loads(line) for line in (path.parent / "chat.jsonl").read_text().splitlines()]
    told = [{**row, "says": f"a sign of {number} <image> rings"} for number, row in enumerate(rows)]
    (path.parent / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def words(recipe: Path, *more: str) -> list[str]:
    told = [f"data.pictures.path={recipe.parent / 'told.jsonl'}", "data.pictures.texts={image: says}"]
    alone = ["stages.align.data={pictures: 1.0}", f"stages.align.distill={{by: text, weight: {WEIGHT}}}"]
    return [*told, *alone, "connectors.lora.when=[image]", "connectors.lora.dropout=0", *more]


def conversations(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of each conversation of a packed row."""
    bounds = batch.cu_seqlens.tolist()
    return [(batch.input_ids[a:b], batch.labels[a:b]) for a, b in pairwise(bounds)]


def test_the_loss_is_that_of_the_labels_and_of_the_llm_that_reads_the_text(recipe: Path, tmp_path: Path) -> None:
    overrides = words(recipe, "stages.align.steps=2", "stages.align.micro_batch=2", "stages.instruct.steps=1")
    read = load_recipe(recipe, overrides)
    model, bare = build(read), AutoModelForCausalLM.from_pretrained(read.llm.path, dtype=torch.float32)
    set_trainable(model, read.stages["align"].train)
    batches = next(iter(loader_of(read, "align", model, datasets_of(read, read.stages["align"]), model.device)))
    total, by_model = torch.zeros(()), torch.zeros(())
    for batch in batches.micro:
        assert batch.teacher is not None and not batch.teacher.media
        texts = [model.llm.tokenizer.decode(ids) for ids, _ in conversations(batch.teacher)]
        assert all("a sign of" in text and "<image> rings\nWhat is on sign" in text for text in texts)
        logits = model.logits(batch)
        for start, (_, labels), (taught, same) in zip(
            batch.cu_seqlens.tolist(), conversations(batch), conversations(batch.teacher), strict=False
        ):
            here, there = (labels != IGNORE_INDEX).nonzero()[:, 0], (same != IGNORE_INDEX).nonzero()[:, 0]
            with torch.no_grad():
                teacher = bare(input_ids=taught[None]).logits[0, there - 1].log_softmax(-1)
            student = logits[start + here - 1].log_softmax(-1)
            nll = F.nll_loss(student, labels[here], reduction="sum")
            kl = (teacher.exp() * (teacher - student)).sum()
            assert float(kl.detach()) > 0.01
            total = total + (1 - WEIGHT) * nll + WEIGHT * kl
        by_model = by_model + model(batch, WEIGHT)[0]
    torch.testing.assert_close(by_model, total)
    projector = [*model.connectors["image"].parameters()]
    for mine, by_hand in zip(
        torch.autograd.grad(by_model, projector), torch.autograd.grad(total, projector), strict=True
    ):
        torch.testing.assert_close(mine, by_hand)
    train_here(recipe, tmp_path / "run", overrides)
    first, *_ = metrics(tmp_path / "run")
    assert first["loss"] == pytest.approx(float(total.detach()) / batches.n_labels_global, rel=1e-5)
    assert parse(dump(read)).stages["align"].distill == read.stages["align"].distill


def test_a_row_without_a_text_is_named(recipe: Path, tmp_path: Path) -> None:
    overrides = words(recipe, f"data.pictures.path={recipe.parent / 'chat.jsonl'}", "data.pictures.texts={}")
    with pytest.raises(MmllmError, match=r"distill needs the text of each <image>, and none of 1 has one; name"):
        train_here(recipe, tmp_path / "run", overrides)
    with pytest.raises(MmllmError, match=r'texts names the field "sayz" for image.*did you mean "says"'):
        train_here(recipe, tmp_path / "other", words(recipe, "data.pictures.texts={image: sayz}"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("connectors.lora.when=", "connectors.lora works inside the LLM on text too"),
        ("stages.align.train={llm: 1.0e-5}", "the teacher is the frozen LLM, and this stage trains llm"),
        ("stages.align.share_prefix=true", "leave share_prefix out"),
        ("stages.align.zero=3", "zero: 3 splits"),
        ("stages.align.distill=caption", "text"),
        ("stages.align.distill={by: text, weigth: 1}", "weight"),
    ],
)
def test_what_would_be_no_frozen_teacher_is_refused(recipe: Path, change: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=r"stages\.align\.distill") as error:
        load_recipe(recipe, words(recipe, change))
    assert sentence in str(error.value)


def test_texts_take_the_places_of_their_items(tmp_path: Path) -> None:
    talk = (Message("user", "\\<image> and <image>, <image>?"), Message("assistant", "<image>"))
    found = in_words(Sample("two", talk, {"image": ("a", "b")}, {"image": ("one", "<image>")}))
    assert [message.text for message in found.messages] == ["\\<image> and one, \\<image>?", "<image>"]
    with pytest.raises(SampleError, match="1 of 2 has one"):
        in_words(Sample("two", talk, {"image": ("a", "b")}, {"image": ("one",)}))
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "7_theo_9.wav").touch()
    assert in_words(Fsdd(str(tmp_path))[0]).messages[0].text == "seven\nwhat digit is it?"
