"""The engine: answers are those of each conversation alone, whoever runs beside it and whatever was read before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from mmllm.generation import packed
from mmllm.generation.answers import Delta, Request
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.packed import Packed
from mmllm.generation.padded import Padded
from mmllm.generation.sampling import Sampling
from mmllm.hooks import ForwardContext
from mmllm.types import Message, Sample
from tests.support.inside import VARIANTS, connector_of, inside
from tests.support.parts import randomise
from tests.support.serving import tiny_generator

SYSTEM = "There are 3 shapes, one green triangle and two digits: 4 and 7. Total 12.50 EUR."
"""More than one block of tokens."""


def noise(seed: int) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 255, (28, 28, 3), dtype=torch.uint8).numpy())


def ask(*turns: str, pictures: Sequence[Image.Image] = (), name: str = "one") -> Sample:
    """A conversation under the system's text, the user first."""
    roles = ["user", "assistant"] * len(turns)
    said = [Message(role, text) for role, text in zip(roles, turns, strict=False)]
    return Sample(name, (Message("system", SYSTEM), *said), {"image": tuple(pictures)} if pictures else {})


def alone(generator: Generator, sample: Sample, limit: int = 6) -> str:
    """The answer of a generator that has read nothing before."""
    fresh = Generator(generator.model)
    fresh.end_ids = generator.end_ids
    return fresh.generate([sample], limit)[0].text


def ways(generator: Generator) -> Packed:
    assert isinstance(generator.engine.way, Packed)
    return generator.engine.way


def streamed(generator: Generator, sample: Sample, limit: int = 6) -> tuple[str, int]:
    """The answer, and how many tokens of the prompt were known."""
    deltas = list(generator.stream(sample, limit))
    return "".join(delta.text for delta in deltas), deltas[-1].cached_tokens


@pytest.fixture
def generator() -> Generator:
    made = tiny_generator()
    made.end_ids = frozenset()
    randomise(made.model.connectors, seed=3)  # so that pictures say something to the LLM
    return made


def test_no_request_sees_the_picture_of_another(generator: Generator) -> None:
    """The same ids, another picture, while all of the first is kept."""
    same = [ask(f"<image> What is on the sign? {SYSTEM}", pictures=[noise(seed)]) for seed in (1, 2)]
    first, second = (generator.encode(sample) for sample in same)
    assert first.ids == second.ids and first.spans == second.spans
    assert alone(generator, same[0]) != alone(generator, same[1])
    assert streamed(generator, same[0]) == (alone(generator, same[0]), 0)
    known = first.spans[0].start
    assert streamed(generator, same[1]) == (alone(generator, same[1]), known)
    for sample in same:
        assert streamed(generator, sample) == (alone(generator, sample), len(first.ids) - 1)
    # beside each other, and with the items in the other order
    both = [ask("<image> <image> same?", pictures=[noise(a), noise(b)]) for a, b in ((1, 2), (2, 1), (1, 1))]
    assert [one.text for one in generator.generate(both, 6)] == [alone(generator, sample) for sample in both]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_read_before_changes_no_answer(variant: str) -> None:
    """Turns of a chat, another question, a picture that comes later: with every connector inside the LLM."""
    model = inside(variant)
    randomise(connector_of(model, variant))
    generator = Generator(model)
    generator.end_ids = frozenset()
    one, two = noise(1), noise(2)
    first = ask("<image> What is it?", pictures=[one])
    said = "A cat."
    asked = [
        first,
        ask("<image> What is it?", said, "Where?", pictures=[one]),
        ask("<image> How many are there?", pictures=[one]),
        ask("<image> What is it?", said, "And <image> here?", pictures=[one, two]),
    ]
    expected = [alone(generator, sample, 3) for sample in asked]
    found = [streamed(generator, sample, 3) for sample in asked]
    assert [text for text, _ in found] == expected
    assert all((cached > 0) == connector_of(model, variant).goes_on for _, cached in found[1:3])
    generator.engine.reuse = False
    together = generator.generate(asked, 3)
    assert [answer.text for answer in together] == expected


@pytest.mark.parametrize("variant", ["lora", "moe_lora", "llama_adapter from image", "iva from image"])
def test_when_a_picture_comes_later_the_text_before_is_read_again(variant: str) -> None:
    """With ``when`` a connector works from a conversation's first token on, once it has a picture anywhere."""
    model = inside(variant, when=("image",))
    randomise(connector_of(model, variant))
    generator = Generator(model)
    generator.end_ids = frozenset()
    plain, shown = ask("What is it?"), ask("What is it?", "A cat.", "And <image>?", pictures=[noise(1)])
    for sample in (plain, shown):
        assert streamed(generator, sample, 3)[0] == alone(generator, sample, 3)


def test_an_item_is_encoded_once_and_what_follows_it_read_once(generator: Generator) -> None:
    questions = [ask(f"<image> {word}", pictures=[noise(seed)]) for seed in (1, 2) for word in ("What?", "How?", "No.")]
    answers = generator.generate(questions, 4)
    assert ways(generator).items.encoded == 2
    assert [one.text for one in answers] == [alone(generator, sample, 4) for sample in questions]
    generator.generate(questions[::-1], 4)
    assert ways(generator).items.encoded == 2


def test_a_change_of_the_weights_is_noticed(generator: Generator) -> None:
    sample = ask("<image> What?", pictures=[noise(1)])
    before, _ = streamed(generator, sample)
    with torch.no_grad():
        for parameter in generator.model.connectors.parameters():
            parameter.add_(torch.randn_like(parameter))
    after, cached = streamed(generator, sample)
    assert cached == 0 and after == alone(generator, sample) != before


def test_seeds_mean_the_same_beside_others(generator: Generator) -> None:
    def sampling(seed: int | None) -> Sampling:
        return Sampling(12, temperature=2.0, seed=seed)

    def answer(request: Request) -> str:
        return "".join(event.text for event in request.events if isinstance(event, Delta))

    samples = [generator.encode(ask(text)) for text in ("What?", "How many shapes?", "Where is the cat?")]
    expected = ["".join(d.text for d in generator.stream_encoded(one, sampling(7))) for one in samples]
    together = [generator.submit(one, sampling(7)) for one in samples]
    generator.engine.step()
    late = generator.submit(samples[0], sampling(7))
    others = [generator.submit(one, sampling(None)) for one in samples]
    while not all(request.done for request in (*together, late, *others)):
        generator.engine.step()
    assert [answer(request) for request in together] == expected
    assert answer(late) == expected[0]


def test_a_failing_request_leaves_the_others_alone(generator: Generator) -> None:
    """One whose picture cannot be encoded, and one that a layer cannot work on."""
    samples = [
        ask("<image> What?", pictures=[noise(1)], name="fine"),
        ask("<image> What?", pictures=[Image.new("RGB", (28, 28), "white")], name="white"),
        ask("@", name="broken"),
        ask("Fine too", name="text"),
    ]
    expected = [alone(generator, sample) for sample in samples]
    encoder = generator.model.encoders["image"]
    plain, white = encoder.forward, generator.encode(samples[1]).media["image"][0]["image"]["pixels"]

    def forward(**inputs: torch.Tensor) -> Any:
        if any(torch.equal(one, white) for one in inputs["pixels"]):
            raise RuntimeError("too bright")
        return plain(**inputs)

    token = generator.llm.tokenizer("@", add_special_tokens=False)["input_ids"][-1]

    def broken(ctx: ForwardContext, x: torch.Tensor) -> torch.Tensor:
        if bool((ctx.input_ids == token).any()):
            raise RuntimeError("not this one")
        return x

    object.__setattr__(encoder, "forward", forward)
    handle = generator.llm.before_block(1, broken)
    requests = [generator.submit(generator.encode(sample), Sampling(6)) for sample in samples]
    for _ in range(3):
        generator.engine.step()
    late = generator.submit(generator.encode(samples[3]), Sampling(6))
    while not all(request.done for request in (*requests, late)):
        generator.engine.step()
    handle.remove()
    assert [str(request.error) for request in requests] == ["None", "too bright", "not this one", "None"]
    for request, text in ((requests[0], expected[0]), (requests[3], expected[3]), (late, expected[3])):
        assert "".join(event.text for event in request.events if isinstance(event, Delta)) == text
    assert generator.engine.load == (0, 0)


def test_a_cancelled_request_frees_its_place_at_the_next_step(generator: Generator) -> None:
    generator = Generator(generator.model, Sizes(rows=1))
    first, second = (generator.submit(generator.encode(ask(text)), Sampling(50)) for text in ("One", "Two"))
    generator.engine.step()
    assert generator.engine.load == (1, 1) and not second.tokens
    first.cancel()
    generator.engine.step()
    assert generator.engine.load == (1, 0) and second.tokens and len(first.tokens) == 1
    stream = generator.stream(ask("Three"), 50)
    second.cancel()
    next(stream)
    stream.close()  # nobody asks for the rest
    assert generator.engine.load == (0, 0)


def test_memory_stays_within_its_budget(generator: Generator) -> None:
    samples = [ask(f"{word} <image>?", pictures=[noise(seed)]) for seed in range(3) for word in ("What", "Who", "How")]
    expected = [alone(generator, sample) for sample in samples]
    one = len(generator.encode(samples[0]).ids) + 8
    streamed(generator, samples[0])
    per_position = ways(generator).shelf.position_bytes
    small = Generator(generator.model, Sizes(kv_bytes=4 * one * per_position, media_bytes=5000))
    small.end_ids = frozenset()
    requests = [small.submit(small.encode(sample), Sampling(6)) for sample in samples]
    most = 0
    while not all(request.done for request in requests):
        small.engine.step()
        most = max(most, small.engine.load[0])
        assert ways(small).shelf.n_positions * per_position <= 4 * one * per_position
        assert ways(small).items.known.used <= 5000
    assert 1 < most <= 4
    texts = ["".join(e.text for e in request.events if isinstance(e, Delta)) for request in requests]
    assert texts == expected
    # one that alone is over it is answered all the same
    tight = Generator(generator.model, Sizes(kv_bytes=1))
    tight.end_ids = frozenset()
    assert [answer.text for answer in tight.generate(samples[:2], 6)] == expected[:2]


def test_long_prompts_are_read_beside_answers(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PIECE", 16)
    long = ask(f"{SYSTEM} <image>", SYSTEM, "And <image>?", pictures=[noise(1), noise(2)])
    expected = alone(generator, long)
    short = generator.submit(generator.encode(ask("Hi")), Sampling(20))
    generator.engine.step()
    request = generator.submit(generator.encode(long), Sampling(6))
    before = len(short.tokens)
    while not request.tokens:
        generator.engine.step()
    # the answer went on by a token for each piece that was read
    assert len(short.tokens) - before >= (len(request.encoded.ids) - request.cached_tokens) // 16
    while not request.done:
        generator.engine.step()
    assert "".join(event.text for event in request.events if isinstance(event, Delta)) == expected


def test_what_cannot_be_read_in_pieces_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = inside("iva from image")
    with caplog.at_level(logging.INFO, "mmllm"):
        assert isinstance(Generator(model).engine.way, Padded)
    assert "connectors.image (IvaConnector) reads whole prompts" in caplog.text


def test_two_streams_take_turns(generator: Generator) -> None:
    samples = [ask("<image> What?", pictures=[noise(1)]), ask("How?")]

    def every() -> Iterator[list[str]]:
        streams = [generator.stream(sample, 6) for sample in samples]
        texts = ["", ""]
        for pair in zip(*streams, strict=False):
            texts = [text + delta.text for text, delta in zip(texts, pair, strict=True)]
        yield texts

    found = next(every())
    assert all(alone(generator, sample).startswith(text) for sample, text in zip(samples, found, strict=True))
