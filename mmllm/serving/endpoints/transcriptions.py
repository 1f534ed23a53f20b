"""``POST /v1/audio/transcriptions``: what is said in a sound, by a model that hears: a chat with one sound in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.endpoints.chats import read_chat
from mmllm.serving.endpoints.events import Event, stream
from mmllm.serving.jobs import Piece
from mmllm.serving.requests.transcriptions import TranscriptionForm, read_form
from mmllm.serving.schema import ApiError

MOST_FIELDS = 32


class Transcriptions:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, request: Request) -> Response:
        """Write down what is said, greedily unless a temperature is given."""
        form, chat = await _form(request)
        ident, tenant = ident_of(request, "trsc-"), tenant_of(request)
        async with self.api.lease(form.model, request) as served:
            asked = await self.api.read(True, read_chat, served, chat, ident, tenant)
            jobs = served.submit(tenant, asked)
        said: list[str] = []

        def usage() -> dict[str, Any]:
            used = jobs.usage
            counts = {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
            return {"type": "tokens", **counts, "total_tokens": used["total_tokens"]}

        def push(piece: Piece) -> Iterator[Event]:
            text = piece[1].text
            said.append(text)
            if text:
                yield {"type": "transcript.text.delta", "delta": text}

        def end() -> Iterator[Event]:
            yield {"type": "transcript.text.done", "text": "".join(said), "usage": usage()}

        if form.stream:
            return stream(jobs, await jobs.first(request), [], push, end, named=True)
        await jobs.collect(request, lambda _, delta: said.append(delta.text))
        if form.response_format == "text":
            return PlainTextResponse("".join(said))
        return JSONResponse({"text": "".join(said), "usage": usage()})


async def _form(request: Request) -> tuple[TranscriptionForm, Any]:
    """Return what the form says; ApiError 400 for a body that is none."""
    try:
        async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
            return await read_form(form)
    except ApiError:
        raise
    except HTTPException as error:
        raise ApiError(400, "The body is no form with a file (multipart/form-data).", code="invalid_request") from error
