"""OpenAI's newer form of a chat, by the official client: input, items, streams, what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from tests.support.serving import MODEL, RED, body, image_part, post, text_part, tiny_generator, user

ASKED: dict[str, Any] = {"model": MODEL, "max_output_tokens": 8}
SCHEMA = {"type": "object", "properties": {"s": {"enum": ["red", "blue"]}}, "required": ["s"],
          "additionalProperties": False}  # fmt: skip
TOOL = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}


@pytest.fixture(scope="module")
def generator() -> Generator:
    """With a context that holds a description of a function."""
    found = tiny_generator()
    found.llm.context = 512
    return found


def chatted(http: TestClient, content: Any, **more: Any) -> str:
    status, answer = post(http, {**body(content), "max_tokens": 8, **more})
    assert status == 200
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_texts_and_pictures_are_those_of_a_chat(client: openai.OpenAI, http: TestClient) -> None:
    plain = client.responses.create(input="Hi", **ASKED)
    assert plain.output_text == chatted(http, "Hi") and plain.id.startswith("resp_")
    assert (plain.status, plain.incomplete_details and plain.incomplete_details.reason) == (
        "incomplete", "max_output_tokens")  # fmt: skip
    assert plain.usage is not None and plain.usage.output_tokens == 8
    shown: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": RED, "detail": "auto"},
                                               {"type": "input_text", "text": "What?"}]}]  # fmt: skip
    assert client.responses.create(input=shown, **ASKED).output_text == chatted(
        http, [image_part(), text_part("What?")]
    )
    told = client.responses.create(input=shown, instructions="Be brief.", **ASKED)
    turns = [{"role": "system", "content": "Be brief."}, user([image_part(), text_part("What?")])]
    assert told.output_text == chatted(http, "", messages=turns) and told.instructions == "Be brief."


def test_turns_go_on_with_what_was_answered(client: openai.OpenAI, http: TestClient) -> None:
    first = client.responses.create(input="Hi", **ASKED)
    items: Any = [{"role": "user", "content": "Hi"}, *[item.to_dict() for item in first.output],
                  {"role": "user", "content": "And?"}]  # fmt: skip
    turns = [user("Hi"), {"role": "assistant", "content": first.output_text}, user("And?")]
    assert client.responses.create(input=items, **ASKED).output_text == chatted(http, "", messages=turns)


def test_a_stream_is_the_whole_in_numbered_events(client: openai.OpenAI, http: TestClient) -> None:
    whole = client.responses.create(input="Hi", **ASKED)
    events = list(client.responses.create(input="Hi", stream=True, **ASKED))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = [kind for kind in kinds if kind == "output_text.delta"]
    assert kinds == ["created", "in_progress", "output_item.added", "content_part.added", *deltas,
                     "output_text.done", "content_part.done", "output_item.done", "incomplete"]  # fmt: skip
    assert "".join(getattr(event, "delta", "") for event in events) == whole.output_text
    last = events[-1].response  # type: ignore[union-attr]
    assert last.output_text == whole.output_text and last.usage is not None
    raw = http.post("/v1/responses", json={**ASKED, "input": "Hi", "stream": True}).text
    assert raw.startswith("event: response.created\ndata: {") and "[DONE]" not in raw


def test_json_and_log_probabilities(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    asked: Any = {**ASKED, "max_output_tokens": 60, "text": form, "temperature": 1.5, "extra_body": {"seed": 1}}
    answer = client.responses.create(input="Hi", include=["message.output_text.logprobs"], top_logprobs=2, **asked)
    assert answer.status == "completed" and json.loads(answer.output_text)["s"] in ("red", "blue")
    (part,) = answer.output[0].content  # type: ignore[union-attr, misc]
    logprobs = part.logprobs  # type: ignore[union-attr]
    assert logprobs and all(len(one.top_logprobs) == 2 for one in logprobs)
    assert answer.usage is not None and len(logprobs) == answer.usage.output_tokens


def test_calls_and_their_results(client: openai.OpenAI) -> None:
    asked: Any = {**ASKED, "max_output_tokens": 100, "tools": [TOOL], "tool_choice": "required", "temperature": 1.5,
                  "parallel_tool_calls": False, "extra_body": {"seed": 1}}  # fmt: skip
    (call,) = client.responses.create(input="Hi", **asked).output
    assert call.type == "function_call" and json.loads(call.arguments)["s"] in ("red", "blue")
    events = list(client.responses.create(input="Hi", stream=True, **asked))
    assert [event.type for event in events if "function" in event.type] == [
        "response.function_call_arguments.delta", "response.function_call_arguments.done"]  # fmt: skip
    assert events[-1].response.output[0].arguments == call.arguments  # type: ignore[union-attr]
    items: Any = [{"role": "user", "content": "Hi"}, call.to_dict(),
                  {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]  # fmt: skip
    assert client.responses.create(input=items, **ASKED).output_text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"), ({"truncation": "auto"}, "truncation"), ({"n": 2}, "n"),
        ({"include": ["file_search_call.results"]}, "include"), ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"prompt": {"id": "x"}}, "prompt"), ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"), ({"guided_choice": ["a"]}, "guided_choice"),
    ],
)  # fmt: skip
def test_what_is_refused(http: TestClient, change: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/responses", json={**ASKED, "input": "Hi", **change})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "a text or a list"), ([5], "an item"), ([{"type": "reasoning"}], "reasoning"), ([], "messages"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "input_file", "file_url": "http://x/y"}]}], "file_data"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}], "data URL"),
        ([{"type": "function_call_output", "call_id": "x", "output": "y"}], "answers no call"),
    ],
)  # fmt: skip
def test_input_that_is_not_read(http: TestClient, given: Any, words: str) -> None:
    answer = http.post("/v1/responses", json={**ASKED, "input": given})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
