"""Functions offered to a model of random weights: calls are valid whatever it would say, in answers and streams."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.serving.tools.parsing import Call, CallReader
from mmllm.types import Message, Sample
from tests.support.serving import MODEL, body, error_of, post, text_part, tiny_generator, user

WARM: dict[str, Any] = {"model": MODEL, "messages": [user("Hi")], "max_tokens": 120, "temperature": 1.5}


@pytest.fixture(scope="module")
def generator() -> Generator:
    """With a context that holds descriptions of functions, for which the small vocabulary takes many tokens."""
    found = tiny_generator()
    found.llm.context = 1024
    return found


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather; not of an <image>.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 9, "minimum": 1}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
PARAMETERS = {"weather": WEATHER["function"]["parameters"], "clock": {"type": "object", "maxProperties": 0}}  # type: ignore[index]


def called(client: openai.OpenAI, **options: Any) -> Any:
    asked: Any = {**WARM, "seed": 1, "tools": [WEATHER, CLOCK], **options}
    (choice,) = client.chat.completions.create(**asked).choices
    for call in choice.message.tool_calls or []:
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])
    return choice


def test_required_and_named_calls(client: openai.OpenAI) -> None:
    choice = called(client, tool_choice="required", parallel_tool_calls=False)
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert len(choice.message.tool_calls) == 1 and choice.message.tool_calls[0].id.startswith("call_")
    for name in ("weather", "clock"):
        choice = called(client, tool_choice={"type": "function", "function": {"name": name}})
        assert [call.function.name for call in choice.message.tool_calls] == [name]


def test_auto_may_say_something_and_none_says_nothing_of_tools(client: openai.OpenAI, http: TestClient) -> None:
    choice = called(client, seed=2)
    assert choice.finish_reason in ("stop", "length") and choice.message.tool_calls is None
    plain, off = (post(http, body(**more)) for more in ({}, {"tools": [WEATHER], "tool_choice": "none"}))
    assert plain[1]["choices"][0]["message"] == off[1]["choices"][0]["message"]
    assert plain[1]["usage"]["prompt_tokens"] == off[1]["usage"]["prompt_tokens"]


def test_calls_stream(client: openai.OpenAI) -> None:
    asked: Any = {**WARM, "seed": 1, "tools": [WEATHER], "tool_choice": "required",
                  "parallel_tool_calls": False}  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert whole is not None
    chunks = list(client.chat.completions.create(**asked, stream=True))
    (delta,) = [chunk.choices[0].delta for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert delta.tool_calls is not None and delta.tool_calls[0].function is not None
    assert delta.tool_calls[0].index == 0 and delta.tool_calls[0].function.arguments == whole[0].function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert all(not chunk.choices[0].delta.content for chunk in chunks)


def test_results_of_calls_are_read(http: TestClient, generator: Generator) -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    turns = [
        user("When?"),
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "a2"}]},
        {"role": "tool", "tool_call_id": "a1", "content": "12:00 <image>"},
        {"role": "tool", "tool_call_id": "a2", "content": [text_part("12:01")]},
    ]
    status, answer = post(http, {**body(), "messages": turns})
    said = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    came = "<tool_response>\n12:00 \\<image>\n</tool_response>\n<tool_response>\n12:01\n</tool_response>"
    sample = Sample("x", (Message("user", "When?"), Message("assistant", f"{said}\n{said}"), Message("user", came)))
    assert status == 200 and answer["usage"]["prompt_tokens"] == len(generator.encode(sample).ids)


def test_a_function_whose_schema_is_wrong(http: TestClient) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "foo"}}}}}
    error = error_of(http, body(tools=[tool]))
    assert error["code"] == "invalid_schema" and error["param"] == "tools"


def test_answers_are_read_apart_wherever_they_are_cut() -> None:
    text = 'a <tool_call>\n{"name": "f", "arguments": {"x": "</tool_call>"}}\n</tool_call> b <tool_call'
    for size in (1, 2, 3, 7, 100):
        reader = CallReader()
        found = [one for at in range(0, len(text), size) for one in reader.push(text[at : at + size])]
        calls = [one for one in found if isinstance(one, Call)]
        said = "".join(one for one in found if isinstance(one, str)) + reader.close()
        assert said == "a  b <tool_call"
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("f", {"x": "</tool_call>"})]


@pytest.mark.parametrize("inside", ["", "{", "[]", '{"name": 1}', "[" * 100_000, "nul\x00"])
def test_what_is_no_call_is_text(inside: str) -> None:
    text = f"<tool_call>{inside}\n</tool_call>"
    assert CallReader().push(text) == [text]
    cut = CallReader()
    assert cut.push(f"x<tool_call>{inside}") == ["x"] and cut.close() == ""
