"""Body of ``POST /v1/completions``: texts to go on from as they stand, and how."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mmllm.serving.requests.sampling import MOST_LOGPROBS, SamplingFields
from mmllm.serving.requests.unsupported import CHAT_ONLY, check_extra

MOST_PROMPTS = 32
NEW_TOKENS = 16
"""Tokens of a continuation where none are asked for: OpenAI's number."""

Ids = Annotated[list[int], Field(min_length=1, max_length=1_000_000)]


def as_prompts(value: Any) -> Any:
    """Return a list of prompts, whether one or several were given, as texts or as token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return [value]
    return value


Prompts = Annotated[
    list[str | Ids],
    Field(min_length=1, max_length=MOST_PROMPTS),
    BeforeValidator(as_prompts, json_schema_input_type=list | str),
]


class CompletionRequest(SamplingFields):
    """Texts, or lists of token ids, and how each is continued."""

    model: Annotated[str, Field(max_length=500)]
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        check_extra(self.model_extra, CHAT_ONLY)


def n_characters(prompt: str | list[int]) -> int:
    """Return the number of characters of a prompt; token ids have none."""
    return len(prompt) if isinstance(prompt, str) else 0
