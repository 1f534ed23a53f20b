"""Steps from logits to a token, each against its definition restated, and answers beside others in one batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mmllm.errors import MmllmError
from mmllm.generation.answers import Request
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling, TokenLogprob
from mmllm.types import Message, Sample

NONE = torch.empty(0, dtype=torch.int64)
LOGITS = torch.tensor([2.0, -1.0, 0.5, 3.0, -torch.inf])


def drawn(logits: torch.Tensor, **options: Any) -> set[int]:
    """Tokens that come in many draws."""
    sampling = Sampling(1, temperature=1.0, seed=0, **options)
    return set(sampling.choose(logits.expand(3000, -1), sampling.generator()).tolist())


def test_filters_keep_what_their_definitions_keep() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.12, 0.08])
    logits = probabilities.log()
    assert drawn(logits) == {0, 1, 2, 3}
    assert drawn(logits, top_k=2) == {0, 1} and drawn(logits, top_k=1) == {0}
    assert drawn(logits, top_k=-1) == drawn(logits, top_k=9) == {0, 1, 2, 3}
    assert drawn(logits, min_p=0.2) == {0, 1, 2}  # 0.12 is over 0.2 * 0.5, 0.08 is not
    # of the two that top_k leaves, 0.5 / 0.8 is over 0.6 alone
    assert drawn(logits, top_k=2, top_p=0.6) == {0} and drawn(logits, top_p=0.6) == {0, 1}
    # as likely as the last of them
    assert drawn(torch.tensor([1.0, 0.0, 0.0, -9.0]), top_k=2) == {0, 1, 2}


def test_penalties_and_bias_by_their_formulas() -> None:
    said, prompt = [0, 0, 3], torch.tensor([1, 3])
    sampling = Sampling(
        1, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0, logit_bias=((2, 4.0), (0, -1.0))
    )
    found = sampling.adjusted(LOGITS, prompt, said)
    # bias, then repetition over prompt and answer, then frequency and presence over the answer
    expected = [(2.0 - 1.0) / 2 - 2 * 0.25 - 0.5, -1.0 * 2, 0.5 + 4.0, 3.0 / 2 - 0.25 - 0.5, -math.inf]
    assert found.tolist() == pytest.approx(expected)
    assert LOGITS[0] == 2.0  # the row of a batch stays as it was
    assert Sampling(1).adjusted(LOGITS, prompt, said) is LOGITS


def test_logprobs_are_those_of_all_tokens() -> None:
    found = TokenLogprob.of(1, LOGITS, 2)
    expected = LOGITS.log_softmax(-1)
    assert found.logprob == pytest.approx(float(expected[1]))
    assert [token for token, _ in found.likeliest] == [3, 0]
    assert TokenLogprob.of(4, LOGITS, 0) == TokenLogprob(4, -math.inf, ())


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": -2}, {"top_k": 1.5}, {"min_p": 1.1}, {"min_p": -0.1}, {"repetition_penalty": 0},
        {"presence_penalty": math.inf}, {"frequency_penalty": math.nan}, {"logit_bias": ((1, math.inf),)},
        {"logprobs": -1}, {"top_k": True},
    ],
)  # fmt: skip
def test_values_that_mean_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(MmllmError, match=next(iter(values))):
        Sampling(1, **values)


def finished(generator: Generator, requests: list[Request]) -> list[list[int]]:
    while not all(request.done for request in requests):
        generator.engine.step()
    return [request.tokens for request in requests]


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 2.0, "seed": 1},
    {"temperature": 1.0, "seed": 2, "top_k": 5},
    {"temperature": 1.5, "seed": 3, "min_p": 0.01, "presence_penalty": 1.0},
    {"repetition_penalty": 3.0},
    {"frequency_penalty": 2.0, "logprobs": 3},
    {"logit_bias": ((9, 100.0),)},
    {"temperature": 1.0, "seed": 4, "top_p": 0.7, "logprobs": 0},
]


def test_every_row_is_chosen_as_if_it_were_alone(generator: Generator) -> None:
    encoded = generator.encode(Sample("x", (Message("user", "Hi there"),)))
    samplings = [Sampling(8, **way) for way in WAYS]
    alone = [finished(generator, [generator.submit(encoded, one)])[0] for one in samplings]
    together = finished(generator, [generator.submit(encoded, one) for one in samplings])
    assert together == alone
    assert set(alone[6]) == {9}
    assert len({tuple(tokens) for tokens in alone}) > 4  # the settings do something
    assert len(set(alone[4])) == len(alone[4])  # a strong penalty leaves no repetition


def test_media_are_not_penalised(generator: Generator) -> None:
    from tests.support.serving import picture

    sample = Sample("x", (Message("user", "<image>\nHi"),), {"image": (picture(),)})
    request = generator.submit(generator.encode(sample), Sampling(1, repetition_penalty=1.5))
    size = sum(span.length for span in request.encoded.spans)
    assert size and len(request._prompt) == len(request.encoded.ids) - size
    generator.engine.cancel(request)


def test_a_choice_that_fails_ends_its_request_alone(generator: Generator) -> None:
    class Broken:
        over = False

        def allowed(self) -> np.ndarray:
            raise RuntimeError("no")

        def take(self, token: int) -> None:
            raise AssertionError

    encoded = generator.encode(Sample("x", (Message("user", "Hi"),)))
    good, bad = generator.submit(encoded, Sampling(4)), generator.submit(encoded, Sampling(4), constraint=Broken())
    assert finished(generator, [good, bad])[0] == finished(generator, [generator.submit(encoded, Sampling(4))])[0]
    assert isinstance(bad.error, RuntimeError) and good.finish == "length"


def test_an_answer_is_measured(generator: Generator) -> None:
    encoded = generator.encode(Sample("x", (Message("user", "Hi"),)))
    greedy = generator.submit(encoded, Sampling(3, logprobs=1))
    (said,) = finished(generator, [greedy])
    for tokens in (said, [7, *said[1:]]):
        forced = generator.submit(encoded, Sampling(3, logprobs=0), forced=tokens)
        assert finished(generator, [forced]) == [tokens]
    parts = [one for event in greedy.events if not isinstance(event, Exception) for one in event.logprobs]
    assert [one.token for one in parts] == said
    assert all(one.likeliest[0] == (one.token, one.logprob) for one in parts)
