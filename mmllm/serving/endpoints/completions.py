"""``POST /v1/completions``: texts continued as they stand, without a chat template and without media."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from mmllm.serving.answers.completions import TextChoice, text_completion
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.endpoints.events import Event, stream
from mmllm.serving.jobs import Piece
from mmllm.serving.requests.completions import NEW_TOKENS, CompletionRequest, n_characters
from mmllm.serving.served import Asked, Served


class Completions:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: CompletionRequest, request: Request) -> JSONResponse | StreamingResponse:
        """Continue texts: ``n`` answers of the first, then of the next."""
        ident = ident_of(request, "cmpl-")
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            asked = await self.api.read(False, _read, served, body, ident)
            jobs = served.submit(tenant_of(request), *asked)
        count = sum(len(one.samplings) for one in asked)
        wanted = body.logprobs is not None
        choices = [TextChoice(number, served.texts, [] if wanted else None) for number in range(count)]
        created = int(time.time())
        if not body.stream:
            await jobs.collect(request, lambda number, delta: choices[number].push(delta))
            bodies = [choice.body() for choice in choices]
            return JSONResponse(text_completion(ident, created, served.name, bodies, usage=jobs.usage))
        first = await jobs.first(request)
        blank: dict[str, Any] = {"usage": None} if body.include_usage else {}

        def push(piece: Piece) -> Iterator[Event]:
            number, delta = piece
            yield text_completion(ident, created, served.name, [choices[number].push(delta)], **blank)

        def end() -> Iterator[Event]:
            if body.include_usage:
                yield text_completion(ident, created, served.name, [], usage=jobs.usage)

        return stream(jobs, first, [], push, end)


def _read(served: Served, body: CompletionRequest, ident: str) -> list[Asked]:
    asked = []
    for prompt in body.prompt:
        encoded = served.encode(
            ident,
            n_characters(prompt),
            lambda prompt=prompt: served.generator.encode_text(ident, prompt),  # type: ignore[misc]
            "prompt",
        )
        limit = served.limit(encoded, body.max_tokens, "max_tokens", NEW_TOKENS)
        asked.append(Asked(encoded, body.samplings(limit, served.width, body.logprobs)))
    return asked
