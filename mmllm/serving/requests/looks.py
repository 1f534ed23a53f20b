"""Bodies of ``POST /seen`` and ``POST /attention``, which are no part of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmllm.serving.parts import MediaContent
from mmllm.serving.requests.chat import ChatRequest


class SeenRequest(BaseModel):
    """``{"model", "part"}``: one media part of a message, as ``/v1/chat/completions`` takes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(max_length=500)]
    part: MediaContent


class AttentionRequest(BaseModel):
    """``{"model", "messages", "answer", "start", "end"}``: letters of an answer to a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(max_length=500)]
    chat: ChatRequest
    answer: str
    start: Annotated[int, Field(ge=0)]
    end: int

    @model_validator(mode="before")
    @classmethod
    def _chat(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = {name: one for name, one in value.items() if name != "chat"}
        value["chat"] = {"model": value.get("model"), "messages": value.pop("messages", None)}
        return value

    @model_validator(mode="after")
    def _inside(self) -> AttentionRequest:
        if not self.start < self.end <= len(self.answer):
            raise ValueError(f"start and end have to be letters of the answer, which has {len(self.answer)}")
        return self
