"""What all endpoints of the HTTP API share: the one error envelope, token counts, the entry of a model.

Bodies of requests are in ``requests/``, answers in ``answers/``.
"""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mmllm.modalities import MODALITIES

ECHO = 300
"""Characters of a request that an error may repeat, so that an error is never much longer than its cause; the list of
known parts, which the error about an unknown one ends with, has 250."""


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


INSIDE = ("body", "chat")
"""Steps to a field that are not the client's: FastAPI's, and the chat that other endpoints make of their body."""


def envelope(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the error body that the ``openai`` client reads; ``type`` follows from the HTTP status."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the HTTP answer for an error, with its own headers (``Retry-After``) and the given ones."""
    return JSONResponse(error.body(), error.status_code, headers={**(error.headers or {}), **(headers or {})})


def validation_error(errors: list[Any]) -> ApiError:
    """Return the first three faults pydantic found as one 400, bounded; the values themselves are not repeated."""
    parts = []
    for error in errors[:3]:
        where = ".".join(str(step) for step in error["loc"] if step not in INSIDE)
        # pydantic's own prefix of what a validator raises
        message = str(error["msg"]).removeprefix("Value error, ")
        parts.append(f"{where[:ECHO]}: {message[:ECHO]}" if where else message[:ECHO])
    if len(errors) > 3:
        parts.append(f"and {len(errors) - 3} more")
    first = [step for step in errors[0]["loc"] if step not in INSIDE] if errors else []
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
