"""Answers that follow a grammar, on random weights: every one is valid, whatever the weights would say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from mmllm.errors import ConstraintError
from mmllm.generation.answers import Request
from mmllm.generation.constraints import masked
from mmllm.generation.constraints.grammars import MOST_DEPTH, OBJECT, calls_grammar, json_grammar
from mmllm.generation.constraints.guidance import Guidance
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.types import Message, Sample

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 99},
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
    },
    "required": ["id", "name", "kind", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"leaf": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False}},
}


@pytest.fixture(scope="module")
def guidance(generator: Generator) -> Guidance:
    return Guidance(generator.llm.tokenizer, generator.llm.vocab_size, generator.end_ids)


def answers(generator: Generator, guidance: Guidance, grammar: str, count: int, **options: Any) -> list[Request]:
    compiled = guidance.compile(grammar)
    encoded = generator.encode(Sample("x", (Message("user", "Hi"),)))
    settings = {"max_new_tokens": 150, "temperature": 1.5, **options}
    requests = [
        generator.submit(encoded, Sampling(seed=seed, **settings), constraint=compiled.begin()) for seed in range(count)
    ]
    while not all(request.done for request in requests):
        generator.engine.step()
    return requests


def text_of(request: Request) -> str:
    assert request.error is None
    return "".join(event.text for event in request.events if not isinstance(event, Exception))


def test_every_answer_follows_its_schema(generator: Generator, guidance: Guidance) -> None:
    ended = answers(generator, guidance, json_grammar(SCHEMA), 16)
    for request in ended:
        text = text_of(request)
        if request.finish == "stop":
            jsonschema.validate(json.loads(text), SCHEMA)
        else:
            with pytest.raises(ValueError):
                json.loads(text)
    assert sum(request.finish == "stop" for request in ended) >= 12


def test_at_the_limit_an_object_that_is_whole_has_stopped(generator: Generator, guidance: Guidance) -> None:
    """Whatever the limit: an answer either stopped and is valid, or says ``length``."""
    found = set()
    for limit in (1, 2, 3, 5, 8):
        for request in answers(generator, guidance, json_grammar({"type": "boolean"}), 4, max_new_tokens=limit):
            found.add(request.finish)
            whole = text_of(request).strip() in ("true", "false")
            assert (request.finish == "stop") == whole
    assert found == {"stop", "length"}


def test_greedy_answers_are_valid_and_any_object_is_one(generator: Generator, guidance: Guidance) -> None:
    for temperature in (0.0, 1.0):
        for request in answers(
            generator, guidance, json_grammar(OBJECT), 4, temperature=temperature, max_new_tokens=60
        ):
            if request.finish == "stop":
                assert isinstance(json.loads(text_of(request)), dict)
            else:
                assert text_of(request).lstrip()[:1] in ("{", "")


def test_calls(generator: Generator, guidance: Guidance) -> None:
    functions = {"f": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"],
                       "additionalProperties": False},
                 "g": {"type": "object", "properties": {}, "additionalProperties": False}}  # fmt: skip
    for request in answers(generator, guidance, calls_grammar(functions, text=False, several=False), 10):
        text = text_of(request)
        assert request.finish == "stop" and text.count("<tool_call>") == 1
        said = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        jsonschema.validate(said["arguments"], functions[said["name"]])


def test_tokens_without_text_are_never_allowed(generator: Generator, guidance: Guidance) -> None:
    begun = guidance.compile(json_grammar(OBJECT)).begin()
    logits = masked(torch.zeros(1, generator.llm.vocab_size), [begun.allowed()])
    allowed = logits.isfinite()[0].nonzero().flatten().tolist()
    assert allowed and all(token < len(generator.llm.tokenizer) for token in allowed)
    assert not generator.end_ids.intersection(allowed)


def test_answers_of_one_grammar_do_not_share_their_place(guidance: Guidance, generator: Generator) -> None:
    grammar = guidance.compile(json_grammar({"enum": [True]}))
    first, second = grammar.begin(), grammar.begin()
    before = second.allowed().copy()
    first.take(int(masked(torch.zeros(1, generator.llm.vocab_size), [before]).argmax()))
    assert np.array_equal(second.allowed(), before) and not np.array_equal(first.allowed(), before)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "foo"}, {"type": "string", "minLength": -1}, {"$ref": "http://example.org/x"}, {"not": {}},
        {"type": "string", "pattern": "(?=a)b"}, {"type": "string", "format": "weird"}, deep(MOST_DEPTH),
        {"enum": ["x" * 70_000]}, {"$ref": "#"}, {"type": "array", "uniqueItems": True},
        # a client's own options do not have keywords passed over
        {"type": "object", "x-guidance": {"lenient": True}, "not": {}},
        {"allOf": [{"anyOf": [{"type": "string", "pattern": f"a{i}{j}"} for i in range(10)]} for j in range(6)]},
    ],
)  # fmt: skip
def test_schemas_that_are_refused(guidance: Guidance, schema: dict[str, Any]) -> None:
    with pytest.raises(ConstraintError) as error:
        guidance.compile(json_grammar(schema))
    assert len(str(error.value)) < 400
