"""Decisions about texts and pictures: probabilities against the model's own, and orders that change nothing."""

from __future__ import annotations

import itertools
from typing import Any

import openai
import pytest
import torch
from fastapi.testclient import TestClient

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.generation.generator import Generator
from mmllm.types import Message, Sample
from tests.support.serving import BLUE, MODEL, RED, picture, tiny_generator

CHOICES: list[dict[str, Any]] = [
    {"value": "red"}, {"value": "blue", "description": "like the sea"}, {"value": "green"}, {"value": True},
]  # fmt: skip
COLOUR = {"type": "choice", "name": "colour", "instructions": "Which colour?", "choices": CHOICES}
SHOWN: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": RED, "detail": "auto"}]}]


@pytest.fixture(scope="module")
def generator() -> Generator:
    """With a context that holds questions of the small vocabulary's many tokens."""
    found = tiny_generator()
    found.llm.context = 512
    return found


def decided(client: openai.OpenAI, questions: list[Any], given: Any = SHOWN) -> Any:
    return client.decisions.create(model=MODEL, input=given, questions=questions)


def expected(generator: Generator, text: str, options: list[str]) -> list[float]:
    """Probabilities by one plain pass over each whole conversation."""
    sums = []
    for option in options:
        sample = Sample("x", (Message("user", text), Message("assistant", option)), {"image": (picture(),)})
        taught = encode(sample, generator.prompter, generator.inputs, 512, train=True)
        batch = collate([taught], generator.inputs, generator.llm.positions)
        with torch.no_grad():
            logprobs = generator.model.logits(batch).log_softmax(-1)
        spots = [n for n, label in enumerate(taught.labels) if label >= 0]
        sums.append(sum(float(logprobs[n - 1, taught.labels[n]]) for n in spots))
    return torch.tensor(sums).softmax(0).tolist()


def test_a_choice_is_the_models_own_probability_of_each_answer(client: openai.OpenAI, generator: Generator) -> None:
    (answer,) = decided(client, [COLOUR]).answers
    text = "<image>\nWhich colour?\nAnswer with one of these:\n- blue: like the sea\n- green\n- red\n- true"
    assert [one.probability for one in answer.probabilities] == pytest.approx(
        expected(generator, text, ["red", "blue", "green", "true"]), abs=1e-5
    )
    best = max(answer.probabilities, key=lambda one: one.probability)
    assert (answer.choice, answer.confidence, answer.name) == (best.value, best.probability, "colour")
    assert [one.value for one in answer.probabilities] == ["red", "blue", "green", True]


def test_the_order_of_options_changes_nothing(client: openai.OpenAI) -> None:
    decided(client, [COLOUR])  # from here on the prompt is known, and read in the same pieces each time
    seen = set()
    for order in itertools.permutations(CHOICES):
        (answer,) = decided(client, [{**COLOUR, "choices": list(order)}]).answers
        assert [one.value for one in answer.probabilities] == [one["value"] for one in order]
        found = sorted((str(one.value), one.probability) for one in answer.probabilities)
        seen.add((answer.choice, answer.confidence, *found))
    assert len(seen) == 1


def test_predicates_and_scores(client: openai.OpenAI, generator: Generator) -> None:
    levels = [{"label": "low"}, {"label": "middle"}, {"label": "high", "description": "very"}]
    questions = [
        {"type": "predicate", "instructions": "It is red."},
        {"type": "score", "instructions": "How bright?", "levels": levels},
    ]
    found = decided(client, questions)
    predicate, score = found.answers
    yes = expected(generator, "<image>\nIt is red.\nAnswer yes or no.", ["Yes", "yes", "No", "no"])
    assert predicate.probability == pytest.approx(yes[0] + yes[1], abs=1e-5)
    text = "<image>\nHow bright?\nAnswer with one of these:\n- low\n- middle\n- high: very"
    levels_found = expected(generator, text, ["low", "middle", "high"])
    assert [(one.label, one.value) for one in score.probabilities] == [("low", 0), ("middle", 1), ("high", 2)]
    assert [one.probability for one in score.probabilities] == pytest.approx(levels_found, abs=1e-5)
    assert score.score == pytest.approx(levels_found[1] + 2 * levels_found[2], abs=1e-5)
    assert found.usage.output_tokens > 0 and found.usage.total_tokens > found.usage.input_tokens


def test_what_is_shown_decides(client: openai.OpenAI) -> None:
    blue: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": BLUE, "detail": "auto"},
                                              {"type": "input_text", "text": "Look."}]}]  # fmt: skip
    found = [decided(client, [COLOUR], given).answers[0].probabilities for given in (SHOWN, blue, "Only text")]
    assert len({tuple(round(one.probability, 6) for one in each) for each in found}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{**COLOUR, "choices": CHOICES[:1]}]}, "choices"),
        ({"questions": [{**COLOUR, "choices": [{"value": "true"}, {"value": True}]}]}, "say the same"),
        ({"questions": [COLOUR, COLOUR]}, "names of questions"),
        ({"questions": [{**COLOUR, "frobnicate": 1}]}, "frobnicate"),
        ({"questions": [{"type": "rank", "instructions": "x"}]}, "rank"),
        ({"questions": [{"type": "predicate", "instructions": [{"type": "input_image", "image_url": RED}]}]}, "text"),
        ({"questions": [{"type": "predicate", "instructions": "long " * 600}]}, "context"),
        ({"input": 5}, "a text or a list"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y"}]}]}, "data URL"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "user's"),
        ({"temperature": 1}, "temperature"),
        ({"model": "other"}, "does not exist"),
    ],
)
def test_what_is_refused(http: TestClient, change: dict[str, Any], words: str) -> None:
    body = {"model": MODEL, "input": "x", "questions": [COLOUR], **change}
    answer = http.post("/v1/decisions", json=body)
    assert answer.status_code in (400, 404) and words in answer.json()["error"]["message"], answer.text
