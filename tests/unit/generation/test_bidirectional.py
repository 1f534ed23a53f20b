"""Answers of models that are not causal everywhere: the same alone, beside others, in pieces, and after others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from mmllm.generation import packed
from mmllm.generation.content import position_keys, whole
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.packed import Packed
from mmllm.generation.padded import Padded
from mmllm.messages.tokenize import Prompter
from mmllm.model.inputs import Input
from mmllm.types import IGNORE_INDEX, Bidirectional, Message, Place, Sample
from tests.support.parts import randomise
from tests.support.serving import tiny_generator

LONG = "There are 3 shapes, one green triangle and two digits: 4 and 7. Total 12.50 EUR."
WAYS = ("pictures", "prefix")


def made(way: str, family: str = "gemma2") -> Generator:
    """A tiny generator whose pictures are 16 tokens; the windows of its LLM are of 6."""
    model = tiny_generator(family).model
    model.llm.prefix = way == "prefix"
    entry: Input = model.inputs["image"]
    entry.text = replace(entry.text, bidirectional=way == "pictures")
    randomise(model.connectors, seed=3)
    return fresh(Generator(model))


def fresh(generator: Generator) -> Generator:
    """One that has read nothing, and whose answers end with their limit."""
    other = Generator(generator.model)
    other.end_ids = frozenset()
    return other


def noise(seed: int) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 255, (28, 28, 3), dtype=torch.uint8).numpy())


def ask(*turns: str, pictures: Sequence[int] = (1,)) -> Sample:
    """A conversation, the user first."""
    roles = ["user", "assistant"] * len(turns)
    media: Any = {"image": tuple(map(noise, pictures))} if pictures else {}
    return Sample("one", tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)), media)


ASKED = (
    ask(f"{LONG} <image> What?"),
    ask(f"{LONG} <image> What is on the sign?"),
    ask(f"{LONG} <image> What?", "A cat.", "Where?"),
    ask(f"{LONG} <image> What?", "A cat.", "And <image><image> here?", pictures=(1, 2, 1)),
    ask(f"{LONG}", pictures=()),
    ask(f"{LONG} <image>", pictures=(2,)),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_answers_are_those_of_padded_batches(way: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and beside others, with what was read before and without, in pieces shorter than a picture or a prefix."""
    generator = made(way, family)
    plain = fresh(generator)
    plain.engine._made = Padded(plain.model)
    expected = [one.text for one in plain.generate(ASKED, 4)]
    assert len(set(expected)) > 2
    assert [fresh(generator).generate([one], 4)[0].text for one in ASKED] == expected
    assert [generator.generate([one], 4)[0].text for one in ASKED] == expected, "one after the other"
    assert [one.text for one in generator.generate(ASKED[::-1], 4)] == expected[::-1]
    monkeypatch.setattr(packed, "PIECE", 7)
    monkeypatch.setattr(packed, "LONG_PIECE", 9)
    for reuse in (True, False):
        small = fresh(generator)
        small.engine.reuse = reuse
        assert [one.text for one in small.generate(ASKED, 4)] == expected


def cached(generator: Generator, sample: Sample) -> int:
    """Tokens of a prompt that were known; the answer is the one of nothing known."""
    deltas = list(generator.stream(sample, 3))
    assert "".join(one.text for one in deltas) == fresh(generator).generate([sample], 3)[0].text
    return deltas[-1].cached_tokens


def test_a_beginning_that_is_used_again_ends_in_no_picture() -> None:
    generator = made("pictures")
    start = generator.encode(ASKED[0]).spans[0].start
    assert cached(generator, ASKED[0]) == 0
    assert cached(generator, ASKED[1]) > start + 16
    # it ends on its picture: all of that is read again for the state of its last token
    other = made("pictures")
    other.llm.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    )
    other = fresh(other)
    sample = ask(f"{LONG} <image>")
    assert cached(other, sample) == 0 and cached(other, sample) == other.encode(sample).spans[0].start


def test_a_prefix_is_used_again_whole_or_not_at_all() -> None:
    """Its states depend on all of it, so a longer question reads everything; a later turn goes on from the answer."""
    generator = made("prefix")
    first = len(generator.encode(ASKED[0]).ids)
    assert cached(generator, ASKED[0]) == 0
    assert cached(generator, ASKED[1]) == 0
    assert cached(generator, ASKED[0]) == 0, "the state of its last token needs all of them"
    said = ask(f"{LONG} <image> What?", generator.generate([ASKED[0]], 5)[0].text, "Where?")
    assert generator.encode(said).prefix == first
    assert cached(generator, said) >= first
    # one whose prefix ends earlier, though its tokens begin alike
    one = generator.encode(said)
    shorter = replace(one, prefix=first - 3)
    found = {"image": [b"same"]}
    assert position_keys(one, found, False)[1:] == position_keys(shorter, found, False)[1:]
    assert position_keys(one, found, False)[0] != position_keys(shorter, found, False)[0]
    assert [whole(one, known) for known in (0, 1, first - 1, first, first + 1)] == [0, 0, 0, first, first + 1]


def test_a_long_stretch_is_one_piece_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "LONG_PIECE", 10)
    generator = made("prefix")
    lengths: list[list[int]] = []
    way = Packed(generator.model, Sizes())
    generator.engine._made = way
    read = way.reader.read
    monkeypatch.setattr(way.reader, "read", lambda parts: lengths.append([n for _, n in parts]) or read(parts))  # type: ignore[func-returns-value]
    answers = generator.generate([ASKED[0], ASKED[1]], 2)
    sizes = [len(generator.encode(one).ids) for one in ASKED[:2]]
    # longest first; the second waits until it can be alone beside the answer that runs
    assert sorted(n for step in lengths for n in step if n > 1) == sorted(sizes)
    assert all(sum(n > 1 for n in step) <= 1 for step in lengths)
    assert [one.text for one in answers] == [fresh(generator).generate([one], 2)[0].text for one in ASKED[:2]]


def test_no_label_is_in_a_prefix() -> None:
    """In training it ends where the assistant first speaks, and at the same token in answers: also of later turns."""
    generator = made("prefix")
    sample = ask("<image> What?", "A cat.", "Where <image>?", "On it.", pictures=(1, 2))
    from mmllm.batches.sample import encode

    learned = encode(sample, generator.prompter, generator.inputs, 256, train=True)
    labels = [place for place, label in enumerate(learned.labels) if label != IGNORE_INDEX]
    assert learned.prefix == labels[0]
    asked = [replace(sample, messages=sample.messages[:n], media={"image": sample.media["image"][:m]})
             for n, m in ((1, 1), (3, 2))]  # fmt: skip
    for one in asked:
        found = generator.encode(one)
        assert found.prefix == learned.prefix and found.ids[: found.prefix] == learned.ids[: found.prefix]
    assert learned.bidirectional == (Bidirectional(0, labels[0], windowed=False),)
    # a picture behind the prefix keeps its own stretch
    places = [Place("image", bidirectional=True)]
    both = encode(sample, Prompter(generator.llm.tokenizer, places, prefix=True), generator.inputs, 256, train=True)
    later = both.spans[1]
    assert both.bidirectional[1:] == (Bidirectional(later.start, later.start + 16),)
