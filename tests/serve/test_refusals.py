"""What the server refuses: one envelope, one sentence, little of the request repeated."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.serving import (
    body,
    error_of,
    image_part,
    post,
    text_part,
    user,
)

TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "structured_outputs"),
        ({"guided_choice": ["yes", "no"]}, "guided_choice"),
        ({"guided_json": {}}, "guided_json"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"mm_processor_kwargs": {"num_crops": 4}}, "mm_processor_kwargs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"best_of": 2}, "best_of"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"n_predict": 5}, "n_predict"),
    ],
)
def test_what_would_change_the_answer_is_refused(http: TestClient, change: dict[str, Any], param: str) -> None:
    error = error_of(http, body(**change))
    assert error["code"] == "unsupported_parameter" and error["param"] == param and repr(param) in error["message"]


def test_neutral_and_unknown_fields_are_ignored_with_one_log_line(
    http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    neutral = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0.0, "response_format": {"type": "text"}}
    with caplog.at_level(logging.INFO, "serve"):
        status, _ = post(http, body(**neutral, user="me", tool_choice="auto", frobnicate=1, another={"a": 2}))
    assert status == 200
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serve"]
    assert "'another'" in line and "'frobnicate'" in line and "user" not in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [user("Hi"), {"role": "assistant", "content": "Ho"}]}, "last message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "system", "content": [image_part()]}, user("?")]}, "only user"),
        ({"messages": [user([{"type": "hologram_url", "hologram_url": {"url": "x"}}])]}, "hologram_url"),
        ({"messages": [user([])]}, "content"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]}, user("?")]}, "tool_calls"),
        ({"messages": [{"role": "assistant"}, user("?")]}, "content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "answers no call"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]}, "of the assistant"),
        ({"n": 0}, "n"),
        ({"n": 9, "temperature": 1}, "n"),
        ({"n": 2}, "temperature"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": "x"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"384": 1}}, "0 to 383"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "logprobs is true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "stop": "}"}, "stop"),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "exclude"),
        ({"tools": [TOOL, TOOL]}, "one name"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "does not hold"),
        ({"messages": [user([{**image_part(), "max_pixels": 50_000}])]}, "max_pixels"),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "x", "min_pixels": 9}}])]}, "min_pixels"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": None}, "model"),
    ],
)
def test_invalid_requests(http: TestClient, change: dict[str, Any], words: str) -> None:
    error = error_of(http, {**body(), **change})
    assert words in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"model": NaN}', b"[" * 60_000, b"\xff\xfe"])
def test_bodies_that_are_not_requests(http: TestClient, raw: bytes) -> None:
    answer = http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert len(answer.content) < 1500


def test_nan_is_not_a_temperature(http: TestClient) -> None:
    raw = json.dumps(body()).replace('"max_tokens": 6', '"temperature": NaN')
    answer = http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "temperature"


def test_errors_repeat_little_of_the_request(http: TestClient) -> None:
    long = "x" * 50_000
    for data in ({**body(), "messages": [{"role": long, "content": 1}] * 500}, {**body(), "model": long}):
        assert len(json.dumps(post(http, data)[1])) < 1500
    assert len(json.dumps(post(http, {**body(), "model": "y" * 400})[1])) < 600


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "data:image/png;base64,AAAA"]
)
def test_images_are_data_urls(http: TestClient, url: str) -> None:
    error = error_of(http, body([image_part(url), text_part("?")]))
    assert error["code"] == "invalid_image" and error["message"].startswith("Image 1 ")
    assert "passwd" not in error["message"]


def test_large_bodies_are_refused(http: TestClient) -> None:
    error = error_of(http, body("x" * 400_000), 413)
    assert error["code"] == "request_too_large" and "300000 bytes" in error["message"]

    def lying() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 10_000

    answer = http.post("/v1/chat/completions", content=lying(), headers={"content-type": "application/json"})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_paths_and_methods_in_the_envelope(http: TestClient) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status and answer.headers["x-request-id"]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
