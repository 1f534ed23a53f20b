"""Likelihoods of given answers are those of a plain forward pass over each conversation alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.errors import SampleError
from mmllm.generation.generator import Generator
from mmllm.generation.likelihood import Likelihood, Likelihoods
from mmllm.types import IGNORE_INDEX, Message, Sample
from tests.support.inside import inside
from tests.support.parts import randomise
from tests.support.serving import tiny_generator

PICTURE = Image.new("RGB", (28, 28), "red")


def noise(seed: int) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 255, (28, 28, 3), dtype=torch.uint8).numpy())


ANSWERS = ("red", "green triangle", "4")
ASKED = [
    Sample("one", (Message("user", "<image> What is on the sign?"),), {"image": (PICTURE,)}),
    Sample("text", (Message("system", "Be short."), Message("user", "Is 4 a digit?"))),
    Sample(
        "later",
        (Message("user", "<image> What is it?"), Message("assistant", "red"), Message("user", "And what else?")),
        {"image": (PICTURE,)},
    ),
]  # fmt: skip


def plainly(generator: Generator, sample: Sample, answer: str) -> Likelihood:
    """By the model's logits over one conversation: what is said after the prompt, up to the end of the turn."""
    whole = Sample(sample.name, (*sample.messages, Message("assistant", answer)), sample.media)
    encoded = encode(whole, generator.prompter, generator.reading, generator.llm.context, train=True)
    start = len(generator.encode(sample).ids)
    batch = collate([encoded], generator.model.inputs, generator.llm.positions)
    with torch.no_grad():
        logits = generator.model.logits(batch).log_softmax(-1)
    said = [n for n in range(start, len(encoded.ids)) if encoded.labels[n] != IGNORE_INDEX]
    return Likelihood(float(sum(logits[n - 1, encoded.ids[n]] for n in said)), len(said))


def test_a_conversation_has_the_generators_system_message_as_where_it_is_answered() -> None:
    generator = tiny_generator("llama")
    alone, told = ASKED[1].messages[1:], ASKED[1]
    plain = Likelihoods(generator).encode(told, ANSWERS)
    generator.system = told.messages[0].text
    found = Likelihoods(generator).encode(replace(told, messages=alone), ANSWERS)
    assert [row.ids for row in found.rows] == [row.ids for row in plain.rows]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_it_is_the_plain_forward_passs(family: str) -> None:
    generator = tiny_generator(family)
    randomise(generator.model.connectors, seed=3)
    likelihoods = Likelihoods(generator)
    read = [likelihoods.encode(sample, ANSWERS) for sample in ASKED]
    # one reading of what the answers share, and a row for each
    assert likelihoods.shares and all(len(one.rows) == 1 for one in read)
    assert [len(segments) for one in read if (segments := one.rows[0].segments)] == [4, 4, 4]
    alone = sum(len(generator.encode(sample).ids) for sample in ASKED)
    assert sum(one.length for one in read) < alone + 3 * 3 * 8
    for sample, found in zip(ASKED, likelihoods.of(read), strict=True):
        for answer, one in zip(ANSWERS, found, strict=True):
            wanted = plainly(generator, sample, answer)
            assert one.n_tokens == wanted.n_tokens and one.total == pytest.approx(wanted.total, abs=1e-4)
            assert one.per_token == one.total / one.n_tokens


@pytest.mark.parametrize(("variant", "shares"), [("iva from image", False), ("lora", True)])
def test_what_works_inside_the_llm(variant: str, shares: bool) -> None:
    """Parts that look at more than the media get each answer in a conversation of its own."""
    model = inside(variant)
    randomise(model.connectors, seed=5)
    generator = Generator(model)
    likelihoods = Likelihoods(generator)
    asked = Sample("one", (Message("user", "<image> What is on the sign?"),), {"image": (noise(4),)})
    read = likelihoods.encode(asked, ANSWERS)
    assert likelihoods.shares is shares and len(read.rows) == (1 if shares else 3)
    for answer, one in zip(ANSWERS, likelihoods.of([read])[0], strict=True):
        assert one.total == pytest.approx(plainly(generator, asked, answer).total, abs=1e-4)


def test_what_does_not_fit_is_said() -> None:
    generator = tiny_generator()
    likelihoods = Likelihoods(generator)
    with pytest.raises(SampleError, match=r"one: .* over the context of 256"):
        likelihoods.encode(ASKED[0], ["red", "red " * 300])
    assert likelihoods.of([]) == []


def test_the_confidence_is_the_mean_probability_of_the_tokens() -> None:
    generator = tiny_generator()
    generator.end_ids = frozenset()
    encoded = generator.encode(ASKED[0])
    (answer,) = generator.generate_encoded([encoded], 3)
    ids, sure = list(encoded.ids), []
    for _ in range(3):
        row = replace(encoded, ids=ids, labels=[IGNORE_INDEX] * len(ids))
        with torch.no_grad():
            last = generator.model.logits(collate([row], generator.model.inputs, generator.llm.positions))[-1]
        ids.append(int(last.argmax()))
        sure.append(float(last.softmax(-1).max()))
    assert answer.confidence == pytest.approx(sum(sure) / 3, abs=1e-5)
    assert generator.generate([ASKED[0]], 3)[0].confidence is None
