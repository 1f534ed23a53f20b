"""Texts continued, counted and made vectors of, and the server's numbers: by the official client and by bare bodies."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from mmllm.batches.collate import collate
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.serving.app import create_app
from mmllm.types import Message, Sample
from tests.support.serving import BLUE, LIMITS, MODEL, RED, body, image_part, local, picture, post, text_part, user

TEXT = "How many red"


def sent(http: TestClient, path: str, **data: Any) -> dict[str, Any]:
    answer = http.post(path, json={"model": MODEL, **data})
    assert answer.status_code == 200 and answer.headers["x-request-id"], answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(http: TestClient, path: str, **data: Any) -> dict[str, Any]:
    answer = http.post(path, json={"model": MODEL, **data})
    assert answer.status_code == 400 and len(answer.text) < 1500, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


# ---- completions


def continued(generator: Generator, text: str | list[int], **options: Any) -> str:
    pieces = generator.stream_encoded(generator.encode_text("x", text), Sampling(**{"max_new_tokens": 6, **options}))
    return "".join(piece.text for piece in pieces)


def test_texts_are_continued_as_they_stand(client: openai.OpenAI, generator: Generator) -> None:
    ids = generator.llm.tokenizer(TEXT).input_ids
    model = generator.model.llm.model
    expected = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, len(ids) :]
    text = generator.llm.tokenizer.decode(expected, skip_special_tokens=True)
    for prompt in (TEXT, ids):
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=6)
        assert answer.choices[0].text == text and answer.object == "text_completion"
        assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)


def test_several_texts_and_answers_are_numbered_and_stream(client: openai.OpenAI, generator: Generator) -> None:
    asked: Any = {"model": MODEL, "prompt": [TEXT, "A"], "n": 2, "seed": 4, "temperature": 1.5, "max_tokens": 6}
    whole = client.completions.create(**asked)
    expected = [continued(generator, text, temperature=1.5, seed=seed) for text in (TEXT, "A") for seed in (4, 5)]
    assert [choice.text for choice in whole.choices] == expected
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3] and whole.usage is not None
    prompts = sum(len(generator.llm.tokenizer(text).input_ids) for text in (TEXT, "A"))
    assert whole.usage.prompt_tokens == prompts
    pieces = [""] * 4
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks[:-1]:
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == expected and chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == prompts


def test_logprobs_of_a_continuation(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(model=MODEL, prompt=TEXT, max_tokens=5, logprobs=2).choices
    found = choice.logprobs
    assert found is not None and found.tokens is not None and found.text_offset is not None
    assert found.token_logprobs is not None and found.top_logprobs is not None
    assert len(found.tokens) == 5 and all(len(one) == 2 for one in found.top_logprobs)
    for token, logprob, likeliest in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert likeliest[token] == logprob == max(likeliest.values())
    lengths = [1 if token.startswith("bytes:") else len(token) for token in found.tokens]
    assert found.text_offset == [sum(lengths[:n]) for n in range(5)]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"), ({"best_of": 2}, "best_of"), ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"), ({"prompt": [384]}, "prompt"), ({"prompt": [-1]}, "prompt"),
        ({"prompt": "x " * 300}, "prompt"), ({"prompt": 5}, "prompt"), ({"logprobs": 21}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"max_tokens": 300}, "max_tokens"),
        ({"min_tokens": 3}, "min_tokens"), ({"prompt": ["a"] * 33}, "prompt"),
    ],
)  # fmt: skip
def test_what_a_completion_refuses(http: TestClient, change: dict[str, Any], param: str) -> None:
    assert refused(http, "/v1/completions", **{"prompt": "Hi", **change})["param"] == param


def test_text_that_is_no_unicode(http: TestClient) -> None:
    for path, word in (("/v1/completions", "prompt"), ("/tokenize", "prompt"), ("/v1/embeddings", "input")):
        raw = json.dumps({"model": MODEL, word: "\ud800"})
        answer = http.post(path, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and "Unicode" in answer.json()["error"]["message"], answer.text


# ---- tokens


def test_tokens_of_texts_and_conversations(http: TestClient, generator: Generator) -> None:
    ids = generator.llm.tokenizer(TEXT).input_ids
    found = sent(http, "/tokenize", prompt=TEXT, return_token_strs=True)
    assert found["tokens"] == ids and found["count"] == len(ids) and found["max_model_len"] == 256
    assert "".join(found["token_strs"]).strip() == TEXT
    shown = sent(http, "/tokenize", messages=[user([image_part(), text_part("?")])], return_token_strs=True)
    encoded = generator.encode(Sample("x", (Message("user", "<image>\n?"),), {"image": (picture(),)}))
    assert shown["count"] == len(encoded.ids) and shown["tokens"].count(-1) == encoded.spans[0].length
    assert shown["token_strs"].count("<image>") == encoded.spans[0].length
    assert post(http, body([image_part(), text_part("?")]))[1]["usage"]["prompt_tokens"] == shown["count"]
    assert refused(http, "/tokenize", messages=[user([image_part()] * 4)])["code"] == "invalid_image"
    assert "either" in refused(http, "/tokenize")["message"]
    assert refused(http, "/tokenize", prompt="x", add_special_tokens=False)["param"] == "add_special_tokens"


# ---- embeddings


def test_vectors_of_texts(client: openai.OpenAI, http: TestClient, generator: Generator) -> None:
    texts = [TEXT, "Another text", TEXT]
    answer = client.embeddings.create(model=MODEL, input=texts)  # the client asks for base64
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, generator.model.llm.dim) and [one.index for one in answer.data] == [0, 1, 2]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[2]).all() and not np.allclose(vectors[0], vectors[1], atol=1e-3)
    plain = sent(http, "/v1/embeddings", input=TEXT, encoding_format="float")["data"][0]["embedding"]
    assert np.allclose(plain, vectors[0], atol=1e-7)
    states = generator.model.llm.model(
        torch.tensor([generator.llm.tokenizer(TEXT).input_ids]), output_hidden_states=True
    ).hidden_states[-1][0]
    for pooling, expected in (("last", states[-1]), ("mean", states.mean(0))):
        found = sent(http, "/v1/embeddings", input=TEXT, pooling=pooling)["data"][0]["embedding"]
        assert torch.allclose(torch.tensor(found), torch.nn.functional.normalize(expected, dim=0), atol=1e-5)


def test_vectors_of_pictures(http: TestClient, generator: Generator) -> None:
    def vector(url: str) -> list[float]:
        answer = sent(http, "/v1/embeddings", messages=[user([image_part(url), text_part("?")])])
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 10
        found: list[float] = answer["data"][0]["embedding"]
        return found

    red, blue = vector(RED), vector(BLUE)
    assert red == vector(RED) and not np.allclose(red, blue, atol=1e-4)
    encoded = generator.encode(Sample("x", (Message("user", "<image>\n?"),), {"image": (picture(),)}))
    _, hidden = generator.model.hidden(collate([encoded], generator.inputs, generator.llm.positions))
    expected = torch.nn.functional.normalize(hidden[len(encoded.ids) - 1], dim=0)
    assert torch.allclose(torch.tensor(red), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"), ({"input": []}, "input"), ({"dimensions": 3}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"), ({"pooling": "max"}, "pooling"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"), ({"temperature": 1}, "temperature"),
    ],
)  # fmt: skip
def test_what_an_embedding_refuses(http: TestClient, change: dict[str, Any], param: str) -> None:
    assert refused(http, "/v1/embeddings", **{"input": "Hi", **change})["param"] == param


def test_base64_is_what_the_client_expects(http: TestClient) -> None:
    texts = {form: sent(http, "/v1/embeddings", input="Hi", encoding_format=form) for form in ("base64", "float")}
    raw = texts["base64"]["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(raw), "<f4").tolist() == texts["float"]["data"][0]["embedding"]


# ---- numbers


def numbers(http: TestClient) -> dict[tuple[str, str], float]:
    answer = http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, sample.labels.get("finish_reason") or sample.labels.get("status") or ""): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.labels.get("model", MODEL) == MODEL and sample.labels.get("path", "other") in ("other", "/tokenize")
    }


def test_numbers_of_the_server(http: TestClient) -> None:
    before = numbers(http)
    used = post(http, body(max_tokens=5))[1]["usage"]
    sent(http, "/tokenize", prompt="x")
    http.get("/" + "x" * 50)
    after = numbers(http)

    def grown(name: str, label: str = "") -> float:
        return after[name, label] - before.get((name, label), 0)

    assert grown("mmllm_answers_total", "length") == 1 and grown("mmllm_generated_tokens_total") == 5
    assert grown("mmllm_prompt_tokens_total") == used["prompt_tokens"]
    assert grown("mmllm_time_to_first_token_seconds_count") == grown("mmllm_answer_seconds_count") == 1
    assert grown("mmllm_http_responses_total", "200") == 1 and grown("mmllm_http_responses_total", "404") == 1
    # an answer is out a moment before its place is free
    for _ in range(100):
        after = numbers(http)
        now = [after[f"mmllm_{name}", ""] for name in ("requests_running", "requests_waiting", "up")]
        if now == [0, 0, 1]:
            break
        time.sleep(0.05)
    assert now == [0, 0, 1]
    assert "x" * 50 not in http.get("/metrics").text


def test_a_server_that_answers_nothing_is_not_ready(http: TestClient, generator: Generator) -> None:
    assert http.get("/ready").json() == {"status": "ready"}
    # no lifespan: its worker was never started
    idle = local(create_app(generator, MODEL, LIMITS))
    answer = idle.get("/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"] and idle.get("/health").status_code == 503
