"""Schema of the HTTP API: what a chat request may hold, how an answer is laid out, and the one error envelope.

A request enters here, becomes a ``Sample`` in ``conversation.py``, is answered by ``worker.py`` and leaves here again.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mmllm.modalities import MODALITIES
from mmllm.serving.parts import Content, TextPart

LOG = logging.getLogger("serve")

ECHO = 300
"""Characters of a request that an error may repeat, so that an error is never much longer than its cause; the list of
known parts, which the error about an unknown one ends with, has 250."""

KNOWN_AND_IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
        "verbosity", "reasoning_effort", "moderation", "prediction", "parallel_tool_calls",
    }
)  # fmt: skip
"""Fields of OpenAI's API that cannot change what this server answers."""

_NONE = (None,)
_OFF = (None, False)
_EMPTY: tuple[Any, ...] = (None, [], {})

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "n": (None, 1),
    "tools": _EMPTY,
    "tool_choice": (None, "none", "auto"),
    "functions": _EMPTY,
    "function_call": (None, "none", "auto"),
    "logprobs": _OFF,
    "top_logprobs": (None, 0),
    "logit_bias": _EMPTY,
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, [], ["text"]),
    "audio": _NONE,
    "web_search_options": _NONE,
    # vLLM's, SGLang's and llama.cpp's: sampling
    "best_of": (None, 1),
    "repetition_penalty": (None, 1),
    "repeat_penalty": (None, 1),
    "length_penalty": (None, 1),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "use_beam_search": _OFF,
    "min_tokens": (None, 0),
    "ignore_eos": _OFF,
    "stop_token_ids": _EMPTY,
    "bad_words": _EMPTY,
    "allowed_token_ids": _NONE,
    "logits_processors": _EMPTY,
    "include_stop_str_in_output": _OFF,
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "prompt_logprobs": _NONE,
    "vllm_xargs": _EMPTY,
    # their constraints of an answer
    "structured_outputs": _EMPTY,
    "guided_json": _NONE,
    "guided_regex": _NONE,
    "guided_choice": _NONE,
    "guided_grammar": _NONE,
    "guided_decoding_backend": _NONE,
    "structural_tag": _NONE,
    "json_schema": _NONE,
    "grammar": _NONE,
    "regex": _NONE,
    "ebnf": _NONE,
    # their changes of the prompt
    "chat_template": _NONE,
    "chat_template_kwargs": _EMPTY,
    "documents": _EMPTY,
    "echo": _OFF,
    "add_generation_prompt": (None, True),
    "continue_final_message": _OFF,
    "add_special_tokens": _OFF,
    "truncate_prompt_tokens": _NONE,
    "mm_processor_kwargs": _EMPTY,
    "media_io_kwargs": _EMPTY,
    "lora_path": _NONE,
}
"""Fields that would change the answer and are not offered: any other value than these is refused, never dropped."""


class ApiError(HTTPException):
    """An answer that is an error: HTTP status, OpenAI's error type, a code, the field at fault and one sentence."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status_code, message, headers)
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's envelope: ``{"error": {"message", "type", "param", "code"}}``."""
        return envelope(self.status_code, str(self.detail), self.code, self.param)


KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable",
}
"""HTTP status -> OpenAI's type of an error; all others are faults of the request or of the server."""


def envelope(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the error body that the ``openai`` client reads; ``type`` follows from the HTTP status."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the HTTP answer for an error, with its own headers (``Retry-After``) and the given ones."""
    return JSONResponse(error.body(), error.status_code, headers={**(error.headers or {}), **(headers or {})})


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Contents = Annotated[
    list[Content], Field(min_length=1, max_length=256), BeforeValidator(_as_parts, json_schema_input_type=list | str)
]


class ChatMessage(BaseModel):
    """One message; a string as content is one text part."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Contents

    @model_validator(mode="before")
    @classmethod
    def _nothing_dropped(cls, value: Any) -> Any:
        """Refuse what an assistant's message says besides its text, which the model would not be shown."""
        for name in ("tool_calls", "function_call", "audio", "refusal"):
            if isinstance(value, dict) and value.get(name):
                raise ValueError(f"{name!r} is not supported by this server; leave it out")
        return value


class StreamOptions(BaseModel):
    """Options of a stream: ``include_usage`` asks for a chunk with the token counts before ``[DONE]``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: bool = False


def _as_stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if value is not None else []


# four texts, and below temperatures up to 2, are OpenAI's limits
StopString = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[
    list[StopString], Field(max_length=4), BeforeValidator(_as_stops, json_schema_input_type=list | str | None)
]


class ChatRequest(BaseModel):
    """Body of ``POST /v1/chat/completions``. Temperature 0 (the default) takes the likeliest token each time."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    # torch takes seeds of 64 bits
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def has_media(self) -> bool:
        """Return whether there is anything but text."""
        return any(not isinstance(part, TextPart) for message in self.messages for part in message.content)

    @property
    def n_characters(self) -> int:
        """Return the number of characters of all texts."""
        return sum(len(part.text) for one in self.messages for part in one.content if isinstance(part, TextPart))

    @property
    def limit(self) -> int | None:
        """Return the number of new tokens asked for; the newer field wins when both are given."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered; name the other unknown fields in one log line."""
        extra = self.model_extra or {}
        for name, neutral in NEUTRAL.items():
            if name in extra and extra[name] not in neutral:
                known = "only 1 answer per request is given" if name == "n" else f"leave out {name!r}"
                raise ApiError(
                    400, f"{name!r} is not supported by this server; {known}.", code="unsupported_parameter", param=name
                )
        unknown = sorted(set(extra) - set(NEUTRAL) - KNOWN_AND_IGNORED)
        if unknown:
            LOG.info("ignored unknown request fields: %s", ", ".join(repr(name[:60]) for name in unknown[:10]))


def validation_error(errors: list[Any]) -> ApiError:
    """Return the first three faults pydantic found as one 400, bounded; the values themselves are not repeated."""
    parts = []
    for error in errors[:3]:
        where = ".".join(str(step) for step in error["loc"] if step != "body")
        # pydantic's own prefix of what a validator raises
        message = str(error["msg"]).removeprefix("Value error, ")
        parts.append(f"{where[:ECHO]}: {message[:ECHO]}" if where else message[:ECHO])
    if len(errors) > 3:
        parts.append(f"and {len(errors) - 3} more")
    first = [step for step in errors[0]["loc"] if step != "body"] if errors else []
    param = str(first[0])[:ECHO] if first and isinstance(first[0], str) else None
    return ApiError(400, "Invalid request: " + "; ".join(parts) + ".", code="invalid_request", param=param)


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Return the token counts of one answer; the prompt's includes every position that media take.

    ``cached_tokens`` of the prompt's were not read again: an earlier conversation began with them.
    """
    total = prompt_tokens + completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def completion(ident: str, created: int, model: str, text: str, finish: str, used: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that does not stream."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head = {"id": ident, "object": "chat.completion", "created": created, "model": model}
    return {**head, "system_fingerprint": None, "choices": [choice], "usage": used}


def chunk(
    ident: str, created: int, model: str, delta: dict[str, str] | None, finish: str | None = None
) -> dict[str, Any]:
    """Return one event of a stream; ``delta=None`` is the chunk without choices that carries the usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head: dict[str, Any] = {"id": ident, "object": "chat.completion.chunk", "created": created, "model": model}
    return {**head, "system_fingerprint": None, "choices": [] if delta is None else [choice]}


def model_card(
    name: str, created: int, context: int, modalities: list[str] | None, parent: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return one entry of ``/v1/models``; beside OpenAI's fields the context and what is taken besides text.

    ``modalities``: None where that is not known yet. ``more``: further fields.
    """
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "mmllm", "root": name}
    card |= {"parent": parent, "max_model_len": context, **more}
    if modalities is None:
        return card
    takes = {"input_modalities": ["text", *modalities], "output_modalities": ["text"]}
    files = {"file_types": {modality: list(MODALITIES[modality].endings) for modality in modalities}}
    return {**card, **takes, **files}
