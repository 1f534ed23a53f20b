"""Body of ``POST /v1/embeddings``: texts as OpenAI has them, or a conversation with media as vLLM has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmllm.generation.pooling import Pooling
from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.requests.completions import Prompts
from mmllm.serving.requests.unsupported import CHAT_ONLY, CHOSEN_ONLY, check_extra


class EmbeddingRequest(BaseModel):
    """``{"model", "input"}``, each text a vector of its own, or ``{"model", "messages"}``, one for all of them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Annotated[str, Field(max_length=500)]
    input: Prompts | None = None
    chat: ChatRequest | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Pooling = "last"
    """Not OpenAI's; the default is vLLM's for LLMs."""

    @model_validator(mode="before")
    @classmethod
    def _either(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if ("input" in value) == ("messages" in value):
            raise ValueError("give either input or messages")
        value = {name: one for name, one in value.items() if name != "chat"}
        if "messages" in value:
            value["chat"] = {"model": value.get("model"), "messages": value.pop("messages")}
        return value

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        check_extra(self.model_extra, {**CHAT_ONLY, **CHOSEN_ONLY, "normalize": (None, True)})
