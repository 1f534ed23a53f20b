"""OpenAI's fields of sampling and of the answer's form, by the official client and by bare bodies."""

from __future__ import annotations

import json
import threading
from typing import Any, Literal

import jsonschema
import openai
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.sampling import Sampling
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from mmllm.types import Message, Sample
from tests.support.serving import MODEL, RED, body, error_of, image_part, local, post, text_part, user

WARM: dict[str, Any] = {"model": MODEL, "messages": [user("Hi")], "max_tokens": 8, "temperature": 1.5}


def texts(client: openai.OpenAI, **options: Any) -> list[str]:
    answer = client.chat.completions.create(**{**WARM, **options})
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [choice.message.content or "" for choice in answer.choices]


def test_n_answers_are_those_of_the_seeds_that_follow(client: openai.OpenAI) -> None:
    three = texts(client, n=3, seed=5)
    assert three == [texts(client, seed=seed)[0] for seed in (5, 6, 7)] and len(set(three)) == 3
    usage = client.chat.completions.create(**WARM, n=3, seed=5).usage
    alone = client.chat.completions.create(**WARM, seed=5).usage
    assert usage is not None and alone is not None
    assert usage.prompt_tokens == alone.prompt_tokens and usage.completion_tokens > alone.completion_tokens


def test_n_answers_stream_side_by_side(client: openai.OpenAI) -> None:
    pieces: dict[int, str] = {}
    ends: dict[int, str] = {}
    for chunk in client.chat.completions.create(**WARM, n=3, seed=5, stream=True):
        (choice,) = chunk.choices
        pieces[choice.index] = pieces.get(choice.index, "") + (choice.delta.content or "")
        assert choice.index not in ends
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert [pieces[number] for number in range(3)] == texts(client, n=3, seed=5) and len(ends) == 3


def test_an_idle_server_takes_more_answers_than_it_has_places(generator: Generator, client: openai.OpenAI) -> None:
    narrow = Generator(generator.model, Sizes(rows=2))
    with local(create_app(narrow, MODEL, Limits(max_waiting=1))) as http:
        status, answer = post(http, {**WARM, "n": 6, "seed": 5})
    assert status == 200
    assert [choice["message"]["content"] for choice in answer["choices"]] == texts(client, n=6, seed=5)


def test_a_seed_means_the_same_beside_others(client: openai.OpenAI) -> None:
    alone = texts(client, seed=11)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda seed=seed: found.append([str(seed), *texts(client, seed=seed)]))
        for seed in (11, 1, 11, 2, 3, 11)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [text for seed, text in found if seed == "11"] == alone * 3


@pytest.mark.parametrize(
    "option",
    [
        {"top_k": 3}, {"min_p": 0.1}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0},
        {"repetition_penalty": 5.0}, {"logit_bias": {"9": 100}},
    ],
)  # fmt: skip
def test_sampling_is_the_engines(http: TestClient, generator: Generator, option: dict[str, Any]) -> None:
    encoded = generator.encode(Sample("x", (Message("user", "Hi"),)))
    settings = {**option, "logit_bias": tuple((int(k), v) for k, v in option.get("logit_bias", {}).items())}
    pieces = generator.stream_encoded(encoded, Sampling(12, temperature=2.0, seed=3, **settings))
    status, answer = post(http, body(temperature=2.0, seed=3, **{"max_tokens": 12, **option}))
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "".join(piece.text for piece in pieces)


def test_logprobs(client: openai.OpenAI, http: TestClient) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": [user("Hi")], "max_tokens": 6}
    (choice,) = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    content = choice.logprobs.content
    assert len(content) == 6 and all(len(one.top_logprobs) == 3 and one.logprob < 0 for one in content)
    # greedy: the likeliest is what was said
    assert all(one.top_logprobs[0].token == one.token for one in content)
    joined = b"".join(bytes(one.bytes or []) for one in content).decode(errors="ignore")
    assert joined == choice.message.content
    streamed = [
        one
        for chunk in client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True)
        for one in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert streamed == content
    (plain,) = client.chat.completions.create(**asked, logprobs=True).choices
    assert plain.logprobs is not None and [one.top_logprobs for one in plain.logprobs.content or []] == [[]] * 6
    # what was not allowed has a number that JSON holds
    (cut,) = post(http, body(logprobs=True, top_logprobs=20, response_format={"type": "json_object"}))[1]["choices"]
    assert all(one["top_logprobs"][-1]["logprob"] == -9999.0 for one in cut["logprobs"]["content"][:1])


# ---- JSON


class Found(BaseModel):
    """What the schema of the tests below is made of."""

    kind: Literal["red", "blue"]
    whole: bool


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 999}, "s": {"enum": ["red", "blue"]}},
    "required": ["n", "s"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "found", "strict": True, "schema": SCHEMA}}


def test_answers_by_a_schema_are_valid_with_pictures_and_in_a_stream(client: openai.OpenAI) -> None:
    asked: Any = {**WARM, "max_tokens": 100, "response_format": FORMAT, "n": 6, "seed": 0,
                  "messages": [user([image_part(RED), text_part("What?")])]}  # fmt: skip
    whole = client.chat.completions.create(**asked)
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
    pieces = [""] * 6
    for chunk in client.chat.completions.create(**asked, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert pieces == [choice.message.content for choice in whole.choices]


def test_the_client_parses_and_a_cut_object_is_an_error_of_its_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": [user("Hi")], "temperature": 1.0}
    parsed = client.chat.completions.parse(**asked, seed=3, max_tokens=150, response_format=Found)
    assert isinstance(parsed.choices[0].message.parsed, Found)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**asked, seed=3, max_tokens=2, response_format=Found)


def test_a_cut_object_is_named(http: TestClient) -> None:
    (choice,) = post(http, body(max_tokens=2, response_format={"type": "json_object"}))[1]["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "incomplete_json")
    (choice,) = post(http, body(max_tokens=2))[1]["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)


def test_bad_schemas_are_refused_before_anything_is_read(http: TestClient) -> None:
    for schema in ({"type": "foo"}, {"type": "string", "format": "weird"}, {"type": "array", "uniqueItems": True}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        error = error_of(http, body([image_part("data:image/png;base64,AAAA")], response_format=form))
        assert error["code"] == "invalid_schema" and error["param"] == "response_format"


# ---- bodies of other clients


def test_a_body_as_litellm_sends_it(http: TestClient) -> None:
    plain = post(http, body(max_tokens=6))[1]["choices"][0]["message"]["content"]
    sent = {
        **body(max_tokens=6), "n": 1, "temperature": 0.0, "top_p": 1.0, "stream": False, "user": "u", "seed": None,
        "stop": None, "tools": None, "tool_choice": None, "response_format": None, "logit_bias": {}, "logprobs": None,
        "top_logprobs": None, "presence_penalty": 0.0, "frequency_penalty": 0.0, "metadata": {"tags": ["a"]},
        "max_retries": 2, "extra_headers": None, "parallel_tool_calls": None, "stream_options": None, "min_p": 0.0,
        "top_k": -1, "repetition_penalty": 1.0, "reasoning_effort": None, "modalities": None, "store": None,
    }  # fmt: skip
    status, answer = post(http, sent)
    assert status == 200 and answer["choices"][0]["message"]["content"] == plain


def test_a_body_as_one_types_it_for_curl(http: TestClient) -> None:
    typed = '{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stop": ["x", "y"]}'
    answer = http.post("/v1/chat/completions", content=typed, headers={"content-type": "application/json"})
    assert answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] in ("stop", "length")
