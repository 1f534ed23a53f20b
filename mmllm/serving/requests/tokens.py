"""Body of ``POST /tokenize``, in vLLM's form: a text as it stands, or a conversation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.requests.unsupported import check_extra


class TokenizeRequest(BaseModel):
    """``{"model", "prompt"}`` or ``{"model", "messages"}``, the latter with tools and media as chats have them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Annotated[str, Field(max_length=500)]
    prompt: str | None = None
    chat: ChatRequest | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _either(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if ("prompt" in value) == ("messages" in value):
            raise ValueError("give either prompt or messages")
        value = {name: one for name, one in value.items() if name != "chat"}
        chat = {name: value.pop(name) for name in ("messages", "tools", "tool_choice") if name in value}
        return {**value, "chat": {**chat, "model": value.get("model")}} if "messages" in chat else value

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        # its default is vLLM's here: the tokenizer's own beginning of a text
        check_extra(self.model_extra, {"add_special_tokens": (None, self.prompt is not None)})
