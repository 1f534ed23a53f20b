"""Body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmllm.serving.parts import Content, TextPart
from mmllm.serving.requests.sampling import MOST_LOGPROBS, SamplingFields
from mmllm.serving.requests.tools import MOST_TOOLS, NamedTool, Tool, ToolCall, ToolChoice


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Contents = Annotated[
    list[Content], Field(min_length=1, max_length=256), BeforeValidator(_as_parts, json_schema_input_type=list | str)
]


class ChatMessage(BaseModel):
    """One message; a string as content is one text part. One that calls functions may have no content."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Contents | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_dropped(cls, value: Any) -> Any:
        """Refuse what an assistant's message says besides its text, which the model would not be shown."""
        for name in ("function_call", "audio", "refusal"):
            if isinstance(value, dict) and value.get(name):
                raise ValueError(f"{name!r} is not supported by this server; leave it out")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant have tool_calls")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message has content")
        if self.role == "tool" and not all(isinstance(part, TextPart) for part in self.content or ()):
            raise ValueError("what a tool answers is text")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of the role tool has a tool_call_id")
        return self


class JsonSchema(BaseModel):
    """A named JSON Schema; ``strict`` makes no difference: an answer always follows it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(max_length=64)] = "answer"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class Free(BaseModel):
    """``{"type": "text"}``: anything may be said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["text"]


class AnyObject(BaseModel):
    """``{"type": "json_object"}``: an object of JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["json_object"]


class BySchema(BaseModel):
    """``{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[Free | AnyObject | BySchema, Field(discriminator="type")]


class ChatRequest(SamplingFields):
    """A conversation, how it is to be answered, and what the answer may be."""

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _go_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        called = {call.id for message in self.messages for call in message.tool_calls or ()}
        if any(one.role == "tool" and one.tool_call_id not in called for one in self.messages):
            raise ValueError("a message of the role tool answers no call of the messages")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools holds two functions of one name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a function that tools does not hold")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice 'required' needs tools")
        if self.is_json and self.offers_tools:
            raise ValueError("response_format and tools exclude each other; say tool_choice 'none'")
        if self.stop and (self.is_json or self.offers_tools):
            raise ValueError("stop would cut what response_format or tools ask for; leave it out")
        return self

    @property
    def is_json(self) -> bool:
        """Return whether the answer has to be JSON."""
        return self.response_format is not None and not isinstance(self.response_format, Free)

    @property
    def offers_tools(self) -> bool:
        """Return whether functions may be called."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def callable_tools(self) -> Sequence[Tool]:
        """Return the functions that may be called."""
        if not self.offers_tools:
            return ()
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        return [tool for tool in self.tools or () if chosen is None or tool.function.name == chosen]

    @property
    def has_media(self) -> bool:
        """Return whether there is anything but text."""
        return any(not isinstance(part, TextPart) for message in self.messages for part in message.content or ())

    @property
    def n_characters(self) -> int:
        """Return the number of characters of all texts, those of functions included."""
        texts = [part.text for one in self.messages for part in one.content or () if isinstance(part, TextPart)]
        texts += [call.function.arguments for one in self.messages for call in one.tool_calls or ()]
        texts += [tool.model_dump_json() for tool in self.callable_tools]
        return sum(map(len, texts))

    @property
    def limit(self) -> int | None:
        """Return the number of new tokens asked for; the newer field wins when both are given."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def limit_field(self) -> str:
        """Return the name of the field that ``limit`` stands in."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def n_logprobs(self) -> int | None:
        """Return of how many likeliest tokens the log-probability is asked; None: of none, nor of the chosen."""
        return (self.top_logprobs or 0) if self.logprobs else None
