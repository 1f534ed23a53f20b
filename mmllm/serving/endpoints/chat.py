"""``POST /v1/chat/completions``: an answer to a conversation, as JSON or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from mmllm.serving.answers import chat as answers
from mmllm.serving.answers.chat import ChatChoice
from mmllm.serving.answers.logprobs import chat_logprobs
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.conversation import urls_of
from mmllm.serving.endpoints.chats import read_chat
from mmllm.serving.endpoints.events import Event, stream
from mmllm.serving.jobs import Jobs, Piece
from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.served import Served
from mmllm.serving.tools.parsing import CallReader


class Chat:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: ChatRequest, request: Request) -> JSONResponse | StreamingResponse:
        """Answer a conversation. Errors found before the first token are HTTP errors, later ones end the stream."""
        ident, tenant = ident_of(request, "chatcmpl-"), tenant_of(request)
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            asked = await self.api.read(body.has_media, read_chat, served, body, ident, tenant)
            jobs = served.submit(tenant, asked)
        choices = choices_of(body, len(asked.samplings))
        if body.stream:
            first = await jobs.first(request)
            behind = None if self.api.tools is None else partial(self._all_tags, body, choices)
            return _stream(served, body, ident, jobs, first, choices, behind)
        await jobs.collect(request, lambda number, delta: choices[number].push(delta))
        for choice in choices:
            choice.tags = await self._tags(body, choice)
        bodies = [choice.body(served.texts) for choice in choices]
        return JSONResponse(answers.completion(ident, int(time.time()), served.name, bodies, jobs.usage))

    async def _tags(self, body: ChatRequest, choice: ChatChoice) -> list[dict[str, Any]] | None:
        """Return the tags of an answer, its tools run; None where the server has no tools."""
        tools = self.api.tools
        return None if tools is None else await tools.run(choice.text, urls_of(body, "image"))

    async def _all_tags(self, body: ChatRequest, choices: Sequence[ChatChoice]) -> list[tuple[int, Any]]:
        """Return number and tags of each answer."""
        return [(choice.index, await self._tags(body, choice)) for choice in choices]


def choices_of(body: ChatRequest, count: int) -> list[ChatChoice]:
    """Return ``count`` answers of which nothing has come."""
    logprobs = body.n_logprobs is not None
    return [
        ChatChoice(number, CallReader() if body.offers_tools else None, body.is_json, [] if logprobs else None)
        for number in range(count)
    ]


def _stream(
    served: Served,
    body: ChatRequest,
    ident: str,
    jobs: Jobs,
    first: Piece | None,
    choices: list[ChatChoice],
    tags: Callable[[], Awaitable[list[tuple[int, Any]]]] | None = None,
) -> StreamingResponse:
    """Stream role, pieces and end of every choice, ``tags`` of all, and the usage when asked for."""
    created = int(time.time())
    blank: dict[str, Any] = {"usage": None} if body.include_usage else {}

    def event(choice: dict[str, Any] | None) -> Event:
        return {**answers.chunk(ident, created, served.name, choice), **blank}

    def push(piece: Piece) -> Iterator[Event]:
        number, delta = piece
        choice = choices[number]
        n_before = len(choice.called)
        changes = answers.changes(choice.push(delta), n_before)
        if delta.logprobs and not changes:
            changes = [{"content": ""}]
        logprobs = chat_logprobs(delta.logprobs, served.texts) if choice.logprobs is not None and changes else None
        for change in changes:
            yield event(answers.part(number, change, logprobs))
            logprobs = None
        if choice.finish is not None:
            yield event(answers.end(choice))

    def end() -> Iterator[Event]:
        if body.include_usage:
            yield {**event(None), "usage": jobs.usage}

    async def behind() -> list[Event]:
        assert tags is not None
        return [event(answers.part(number, {"tags": found})) for number, found in await tags()]

    begin = [event(answers.part(choice.index, {"role": "assistant", "content": ""})) for choice in choices]
    return stream(jobs, first, begin, push, end, behind=None if tags is None else behind)
