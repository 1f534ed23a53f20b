"""Generation against transformers' own, against the uncached forward, and batched against one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mmllm.batches.collate import collate
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import MmllmError, SampleError
from mmllm.generation.answer_text import AnswerText
from mmllm.generation.generator import Delta, Generator
from mmllm.generation.sampling import Sampling
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import Message, Sample
from tests.support.parts import tiny_llm, tiny_model, tiny_tokenizer
from tests.support.serving import tiny_generator

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3")


def picture(colour: str = "red") -> Image.Image:
    return Image.effect_noise((40, 30), 80).convert("RGB") if colour == "noise" else Image.new("RGB", (40, 30), colour)


def ask(text: str, *pictures: Image.Image, name: str = "test:1") -> Sample:
    return Sample(name, (Message("user", text),), {"image": pictures} if pictures else {})


SAMPLES = [
    ask("What is on the sign?", name="text only"),
    ask("<image>\nHow many shapes are there, and which of them is left of the blue circle?", picture(), name="one"),
    ask("<image> and <image>: the same?", picture("blue"), picture("green"), name="two"),
    ask("Hi", name="short"),
    Sample(
        "turns",
        (
            Message("system", "Be brief."),
            Message("user", "<image> What?"),
            Message("assistant", "A cat."),
            Message("user", "And <image>?"),
        ),
        {"image": (picture("white"), picture("black"))},
    ),
]


def joined(pieces: Sequence[Delta]) -> str:
    assert all(piece.finish is None for piece in pieces[:-1])
    assert pieces[-1].finish is not None
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_one_by_one_equals_the_stream(family: str) -> None:
    generator = tiny_generator(family)
    together = generator.generate(SAMPLES, 12)
    alone = [generator.generate([sample], 12)[0] for sample in SAMPLES]
    assert together == alone
    assert generator.generate(SAMPLES[::-1], 12) == together[::-1]
    for sample, answer in zip(SAMPLES, together, strict=True):
        pieces = list(generator.stream(sample, 12))
        assert joined(pieces) == answer.text
        assert (pieces[-1].finish, pieces[-1].completion_tokens) == (answer.finish, answer.n_tokens)
        assert {piece.prompt_tokens for piece in pieces} == {answer.prompt_tokens}
    assert len({answer.text for answer in together}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_text_equals_generate_of_transformers(family: str) -> None:
    generator = tiny_generator(family)
    ids = generator.encode(SAMPLES[0]).ids
    reference = tiny_model(family).generate(
        torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=sorted(generator.end_ids)
    )[0, len(ids) :]
    (answer,) = generator.generate([SAMPLES[0]], 16)
    tokenizer = generator.llm.tokenizer
    assert answer.n_tokens == len(reference)
    assert answer.text == tokenizer.decode(reference, skip_special_tokens=True).rstrip("\ufffd")


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_answers_about_pictures_equal_the_uncached_forward(family: str) -> None:
    generator = tiny_generator(family)
    llm = generator.llm
    for sample in SAMPLES[1:3]:
        encoded = generator.encode(sample)
        chosen: list[int] = []
        for _ in range(10):
            grown = replace(encoded, ids=encoded.ids + chosen, labels=encoded.labels + [-100] * len(chosen))
            batch = collate([grown], generator.inputs)
            with torch.no_grad():
                ctx, hidden = generator.model.hidden(batch)
                chosen.append(int(llm.logits(hidden[-1:], ctx, torch.tensor([len(hidden) - 1])).argmax()))
            if chosen[-1] in generator.end_ids:
                break
        (answer,) = generator.generate([sample], 10)
        text = llm.tokenizer.decode(chosen, skip_special_tokens=True).rstrip("\ufffd")
        assert (answer.text, answer.n_tokens) == (text, len(chosen))


def test_the_picture_matters() -> None:
    generator = tiny_generator()
    one, two = (generator.generate([ask("<image> what?", picture(c))], 12)[0].text for c in ("red", "noise"))
    assert one != two


def test_rows_that_end_early_leave_the_others_alone() -> None:
    generator = tiny_generator()
    reference = generator.generate(SAMPLES, 12)
    (first,) = generator.generate(SAMPLES[1:2], 1)
    token = generator.llm.tokenizer(first.text, add_special_tokens=False)["input_ids"][:1]
    generator.end_ids = generator.end_ids | frozenset(token)
    answers = generator.generate(SAMPLES, 12)
    assert [answer.n_tokens for answer in answers] == [
        generator.generate([sample], 12)[0].n_tokens for sample in SAMPLES
    ]
    assert any(answer.finish == "stop" for answer in answers)
    for before, after in zip(reference, answers, strict=True):
        assert before.text.startswith(after.text)


def test_ends_are_the_templates_and_the_generation_configs() -> None:
    llm = tiny_llm()
    llm.model.generation_config.eos_token_id = [7, 9]
    encoder = tiny_encoders.hf_vision()
    connector = MlpConnector(dim=encoder.dim * len(encoder.layers), llm_dim=llm.dim)
    generator = Generator(MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"}))
    assert generator.end_ids == {7, 9, llm.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    llm.model.generation_config.eos_token_id = None
    assert 7 not in Generator(generator.model).end_ids


def test_limits_of_tokens_and_context() -> None:
    generator = tiny_generator()
    generator.end_ids = frozenset()
    (answer,) = generator.generate([SAMPLES[3]], 5)
    assert (answer.n_tokens, answer.finish) == (5, "length")
    n_prompt = answer.prompt_tokens
    generator.llm.context = n_prompt + 3
    (answer,) = generator.generate([SAMPLES[3]], 50)
    assert (answer.n_tokens, answer.finish) == (3, "length")
    for context in (n_prompt, n_prompt - 1):
        generator.llm.context = context
        with pytest.raises(SampleError, match=f"short.*context of {context}"):
            generator.stream(SAMPLES[3], 5)  # before the first piece is asked for


def test_seeded_sampling_is_reproducible_and_leaves_other_randomness_alone() -> None:
    generator = tiny_generator()

    def answer(seed: int | None) -> str:
        return joined(list(generator.stream(SAMPLES[1], 20, temperature=2.0, top_p=0.95, seed=seed)))

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = answer(1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert answer(1) == first
    assert len({answer(seed) for seed in range(4)} | {answer(None)}) > 2
    assert answer(-1)


def test_a_cold_or_narrow_sample_is_greedy() -> None:
    generator = tiny_generator()
    greedy = joined(list(generator.stream(SAMPLES[1], 10)))
    assert joined(list(generator.stream(SAMPLES[1], 10, temperature=1e-8, seed=0))) == greedy
    assert joined(list(generator.stream(SAMPLES[1], 10, temperature=5.0, top_p=1e-9, seed=0))) == greedy


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    sampling = Sampling(1, temperature=1.0, seed=0)
    shares = torch.bincount(sampling.choose(logits, sampling.generator()), minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)
    nucleus = Sampling(1, temperature=1.0, top_p=0.75, seed=0)
    shares = torch.bincount(nucleus.choose(logits, nucleus.generator()), minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.03)
    sharp = Sampling(1, temperature=0.5, seed=0)
    shares = torch.bincount(sharp.choose(logits, sharp.generator()), minlength=4) / 4000
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert torch.allclose(shares, squares / squares.sum(), atol=0.03)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "temperature"),
        ({"max_new_tokens": 1, "temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 1, "top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 1, "stop": ("",)}, "stop"),
    ],
)
def test_meaningless_values_are_refused(values: dict[str, float], word: str) -> None:
    with pytest.raises(MmllmError, match=word):
        Sampling(**values)  # type: ignore[arg-type]


def pushed(text: str, stop: Sequence[str] = (), one_byte_each: bool = False) -> tuple[list[str], AnswerText]:
    """What ``AnswerText`` gives out for the tokens of a text, the last entry from ``close``."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if one_byte_each:
        ids = [
            tokenizer.convert_tokens_to_ids(piece) for token in tokenizer.convert_ids_to_tokens(ids) for piece in token
        ]
    answer = AnswerText(tokenizer, stop)
    given = [answer.push(token) for token in ids]
    return [*given, answer.close()], answer


@pytest.mark.parametrize("text", ["naïve café", "日本語と emoji 🙂👍🏽!", "a\n\nb  c", "¿", "x🙂"])
def test_characters_are_given_out_whole(text: str) -> None:
    given, _ = pushed(text, one_byte_each=True)
    assert "".join(given) == text
    assert all("\ufffd" not in piece for piece in given)
    assert sum(bool(piece) for piece in given) >= len(text) // 2  # and as soon as they are whole


def test_spaces_between_words_survive_tokenizers_that_drop_a_leading_one() -> None:
    words = ["\u2581red", "\u2581blue", "\u2581star", "s"]
    model = Tokenizer(models.Unigram([(word, -1.0) for word in words]))
    model.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model)
    assert tokenizer.decode([1]) == "blue"
    answer = AnswerText(tokenizer)
    assert "".join(answer.push(token) for token in (0, 1, 2, 3)) + answer.close() == "red blue stars"


def test_bytes_that_never_become_a_character_are_left_out() -> None:
    tokenizer = tiny_tokenizer()
    ids = [
        tokenizer.convert_tokens_to_ids(byte) for byte in tokenizer.convert_ids_to_tokens(tokenizer("a🙂")["input_ids"])
    ]
    answer = AnswerText(tokenizer)
    given = [answer.push(token) for token in ids[:-1]]
    assert "".join(given) + answer.close() == "a"


@pytest.mark.parametrize(
    ("text", "stop", "wanted", "stopped"),
    [
        ("one two three", ["two"], "one ", True),
        ("one two three", ["three", "two"], "one ", True),
        ("one two three", ["four"], "one two three", False),
        ("one two thr", ["three"], "one two thr", False),
        ("ababac", ["abac"], "ab", True),
        ("stop", ["stop"], "", True),
        ("a\n\nb", ["\n\n"], "a", True),
        ("日本語です", ["語"], "日本", True),
    ],
)
@pytest.mark.parametrize("one_byte_each", [False, True])
def test_stop_texts(text: str, stop: list[str], wanted: str, stopped: bool, one_byte_each: bool) -> None:
    given, answer = pushed(text, stop, one_byte_each)
    assert "".join(given) == wanted
    assert answer.stopped is stopped
    for n_given in range(len(given) - 1 if not stopped else 0):
        # nothing given out may have to be taken back, however the text goes on
        so_far = "".join(given[:n_given])
        assert not any(so_far.endswith(one[:n]) for one in stop for n in range(1, len(one)))


def test_stop_texts_end_streams_and_batches_alike() -> None:
    generator = tiny_generator()
    (full,) = generator.generate([SAMPLES[1]], 24)
    stop = full.text[4:6]
    (answer,) = generator.generate([SAMPLES[1]], 24, stop=[stop])
    assert answer.text == full.text[: full.text.index(stop)]
    assert answer.finish == "stop"
    assert answer.n_tokens < full.n_tokens
    pieces = list(generator.stream(SAMPLES[1], 24, stop=[stop]))
    assert (joined(pieces), pieces[-1].finish) == (answer.text, "stop")


def test_nothing_asked_nothing_answered() -> None:
    assert tiny_generator().generate([], 4) == []
