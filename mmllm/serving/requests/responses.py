"""Body of ``POST /v1/responses``: a chat in OpenAI's newer form. Nothing is kept, so nothing is gone on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmllm.serving.requests.chat import BySchema, ChatRequest, ResponseFormat
from mmllm.serving.requests.items import chat_messages
from mmllm.serving.requests.tools import NamedTool, Tool, ToolChoice
from mmllm.serving.requests.unsupported import check_extra
from mmllm.serving.schema import ApiError

SAME = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "seed", "stop", "top_logprobs", "parallel_tool_calls",
)  # fmt: skip
"""Fields that mean what they mean in a chat."""
LOGPROBS = "message.output_text.logprobs"
INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
"""What ``include`` may name; the model's thoughts are never apart from its answer."""
NOT_KEPT: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "previous_response_id": (None,),
    "conversation": (None,),
    "prompt": (None,),
    "background": (None, False),
    "truncation": (None, "disabled"),
    "max_tool_calls": (None,),
    "context_management": (None, []),
}
"""Fields that are not offered, with the values that change nothing."""


class ResponseRequest(BaseModel):
    """The chat that is meant, and what of the request the answer repeats."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Annotated[str, Field(max_length=500)]
    # before the chat, in which it stands too: its own name is the one at fault
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    chat: ChatRequest
    stream: bool | None = None
    instructions: str | None = None
    include: Annotated[list[str], Field(max_length=20)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_chat(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = {name: one for name, one in value.items() if name != "chat"}
        if "input" not in value:
            raise ValueError("input is needed")
        chat = {name: value.pop(name) for name in SAME if value.get(name) is not None}
        chat["model"] = value.get("model")
        chat["messages"] = chat_messages(value.pop("input"), value.get("instructions"))
        chat["max_completion_tokens"] = value.get("max_output_tokens")
        include = value.get("include")
        if chat.get("top_logprobs") or (isinstance(include, list) and LOGPROBS in include):
            chat["logprobs"] = True
        text, tools, choice = (value.pop(name, None) for name in ("text", "tools", "tool_choice"))
        chat["response_format"] = _format(text.get("format")) if isinstance(text, Mapping) else text
        chat["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
        named = isinstance(choice, Mapping) and choice.get("type") == "function"
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}} if named else choice
        return {**value, "chat": chat}

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        check_extra(self.model_extra, NOT_KEPT)
        unknown = next((one for one in self.include or () if one not in INCLUDED), None)
        if unknown is not None:
            message = f"include names {unknown[:100]!r}; known: {', '.join(INCLUDED)}."
            raise ApiError(400, message, code="unsupported_parameter", param="include")


def flat_format(form: ResponseFormat | None) -> dict[str, Any]:
    """Return the format of a chat's answer as ``text.format``."""
    if not isinstance(form, BySchema):
        return {"type": "text" if form is None else form.type}
    inside = form.json_schema
    return {"type": form.type, "name": inside.name, "schema": inside.schema_, "strict": True}


def flat_tool(tool: Tool) -> dict[str, Any]:
    """Return a function of a chat as one of ``tools``."""
    return {"type": "function", "strict": True, **tool.function.model_dump()}


def flat_choice(choice: ToolChoice | None) -> Any:
    """Return the choice of a chat as ``tool_choice``."""
    return {"type": "function", "name": choice.function.name} if isinstance(choice, NamedTool) else choice or "auto"


def _format(form: Any) -> Any:
    """Return ``text.format`` as ``response_format`` of a chat, whose name and schema lie one level deeper."""
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        inside = {name: form[name] for name in ("name", "schema", "strict") if name in form}
        return {"type": "json_schema", "json_schema": inside}
    return form


def _tool(tool: Any) -> Any:
    """Return a tool as that of a chat, whose function lies one level deeper."""
    if isinstance(tool, Mapping) and tool.get("type") == "function" and "function" not in tool:
        return {"type": "function", "function": {name: one for name, one in tool.items() if name != "type"}}
    return tool
