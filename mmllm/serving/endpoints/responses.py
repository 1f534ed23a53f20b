"""``POST /v1/responses``: the answer of a chat in OpenAI's newer form, whole or as named events."""

from __future__ import annotations

import time

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from mmllm.serving.answers.responses import ResponseAnswer
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.endpoints.chat import choices_of
from mmllm.serving.endpoints.chats import read_chat
from mmllm.serving.endpoints.events import stream
from mmllm.serving.requests.responses import ResponseRequest


class Responses:
    """The endpoint. Nothing of a response is kept."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: ResponseRequest, request: Request) -> JSONResponse | StreamingResponse:
        """Answer. Errors found before the first token are HTTP errors, later ones end the stream."""
        ident, tenant = ident_of(request, "resp_"), tenant_of(request)
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            asked = await self.api.read(body.chat.has_media, read_chat, served, body.chat, ident, tenant)
            jobs = served.submit(tenant, asked)
        (choice,) = choices_of(body.chat, 1)
        answer = ResponseAnswer(ident, int(time.time()), body, served.name, choice, served.texts)
        if body.stream:
            first = await jobs.first(request)
            begin, push = answer.begin(), lambda piece: answer.push(piece[1])
            return stream(jobs, first, begin, push, lambda: [answer.end(jobs.usage)], named=True)
        await jobs.collect(request, lambda _, delta: list(answer.push(delta)))
        return JSONResponse(answer.finished(jobs.usage))
