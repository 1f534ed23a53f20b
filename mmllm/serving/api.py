"""Routes: models, health, previews, and chat completions as JSON or as a stream of events, over one worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from mmllm.errors import SampleError, TooLongError, UnreadableError
from mmllm.generation.sampling import Sampling
from mmllm.serving.conversation import Inputs, to_sample
from mmllm.serving.media import Limits
from mmllm.serving.models import Models, OneModel, Served
from mmllm.serving.preview import Previewer, PreviewRequest
from mmllm.serving.schema import ApiError, ChatRequest, chunk, completion, usage
from mmllm.serving.worker import Job, Worker

if TYPE_CHECKING:
    from mmllm.generation.generator import Delta, Encoded, Generator
    from mmllm.serving.keys import Key

KEEP_ALIVE = 15.0
"""Seconds without a delta after which a stream sends a comment, so that proxies do not close it."""

READERS = 4
"""Number of requests whose media are read at once."""

LONGEST = 500
"""Maximum length of a library's message about a file that it cannot read, in characters."""

# nginx would collect events before it passes them on; X-Accel-Buffering turns that off for one answer
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


T = TypeVar("T")


class Api:
    """Routes over one worker."""

    def __init__(self, generator: Generator, model_name: str, limits: Limits, models: Models | None = None) -> None:
        """``models``: all that are offered, default: the one of ``generator``, called ``model_name``."""
        self.models_offered = models or OneModel(generator, model_name)
        self.limits = limits
        self.worker = Worker(generator, limits.max_waiting)
        self.inputs = Inputs.of(generator)
        self.previewer = Previewer(self.inputs, limits)
        self.readers = ThreadPoolExecutor(READERS, "media")
        self.reading_media = self.reading_texts = 0
        """Number of requests with and without media that are being read, or wait for that."""

    def close(self) -> None:
        """End what runs and waits."""
        self.worker.close()
        self.models_offered.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    async def health(self) -> JSONResponse:
        """Return 200 while requests can be answered, else 503."""
        running, waiting = self.worker.load
        ok = self.worker.alive
        body = {"status": "ok" if ok else "unavailable", "running": running, "waiting": waiting}
        return JSONResponse(body, 200 if ok else 503)

    async def models(self, request: Request) -> dict[str, Any]:
        """Return the list of models that the request's key may see."""
        return {"object": "list", "data": await asyncio.to_thread(self.models_offered.cards, _entry(request))}

    async def model(self, name: str, request: Request) -> dict[str, Any]:
        """Return one model by its id."""
        return await asyncio.to_thread(self.models_offered.card, name, _entry(request))

    async def preview(self, body: PreviewRequest, request: Request) -> dict[str, Any]:
        """Return a view for people of one media part as the model is shown it; not part of OpenAI's API."""
        if not await asyncio.to_thread(self.models_offered.cards, _entry(request)):
            raise ApiError(404, "This key may use no model, so it sees no preview.", code="model_not_found")
        return await self._read_media(self.previewer.of_part, body.part)

    async def chat(self, body: ChatRequest, request: Request) -> JSONResponse | StreamingResponse:
        """Answer a conversation. Errors found before the first token are HTTP errors, later ones end the stream."""
        body.check_extra()
        # the request's id, so that an answer and the log's lines about it can be matched
        ident = f"chatcmpl-{request.scope['state']['request_id'].removeprefix('req_')}"
        read = self._read_media if body.has_media else self._read_text
        key = _key(request)
        async with self.models_offered.lease(body.model, _entry(request)) as served:
            encoded, sampling = await read(self._prepare, served, body, ident)
            job = self.worker.submit(encoded, sampling, "" if key is None else key[0], served.generator)
        leaving = asyncio.create_task(_left(request))
        if not body.stream:
            try:
                return await self._whole(ident, served.name, job, leaving)
            finally:
                leaving.cancel()
        try:
            # before the headers are sent: a fault of the first step can still be an HTTP error
            first = await _or_left(job.next(KEEP_ALIVE), leaving)
        # also CancelledError, which is no Exception: the client left
        except BaseException:
            job.cancel()
            raise
        finally:
            # from here on the response itself listens for the client's leaving
            leaving.cancel()
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        events = self._events(ident, served.name, job, first, include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)

    async def _read_media(self, work: Callable[..., T], *args: Any) -> T:
        """Run work that reads media on the threads kept for it: slow files hold up no request without media.

        It has a place in the queue while it is read, and is refused where there is none.
        """
        self.worker.check_room(self.reading_media + self.reading_texts)
        self.reading_media += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.readers, work, *args)
        finally:
            self.reading_media -= 1

    async def _read_text(self, work: Callable[..., T], *args: Any) -> T:
        """Run work that tokenises a text, in the same way; how many files are being read is nothing to it."""
        self.worker.check_room(self.reading_texts)
        self.reading_texts += 1
        try:
            return await asyncio.to_thread(work, *args)
        finally:
            self.reading_texts -= 1

    def _prepare(self, served: Served, body: ChatRequest, ident: str) -> tuple[Encoded, Sampling]:
        """Decode, tokenise and measure, on a thread of its own; every fault of the request is found here."""
        generator = served.generator
        try:
            # before anything is looked at: the text may be as long as a body
            generator.check_characters(ident, body.n_characters)
            encoded = generator.encode(to_sample(body, ident, served.inputs, self.limits))
        except TooLongError as error:
            raise ApiError(400, _message(error, ident), code="context_length_exceeded", param="messages") from error
        except UnreadableError as error:
            code = f"invalid_{served.inputs.processors[error.key].modality}"
            raise ApiError(400, _message(error, ident), code=code, param="messages") from error
        except SampleError as error:
            raise ApiError(400, _message(error, ident), code="invalid_prompt", param="messages") from error
        room = served.context - len(encoded.ids)
        if body.limit is not None and body.limit > room:
            raise ApiError(
                400,
                f"The messages take {len(encoded.ids)} tokens and {body.limit} are asked for the answer; the context "
                f"is {served.context}, so at most {room} can be asked for.",
                code="context_length_exceeded",
                param="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
            )
        return encoded, Sampling(
            max_new_tokens=body.limit or min(self.limits.max_new_tokens, room),
            # OpenAI's default is 1; here the likeliest token, so that answers are the same each time
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
            stop=tuple(body.stop),
        )

    async def _whole(self, ident: str, model: str, job: Job, leaving: asyncio.Task[None]) -> JSONResponse:
        """Collect the answer; a client that closes its connection ends it."""
        text = ""
        try:
            while True:
                delta = await _or_left(job.next(), leaving)
                assert delta is not None  # no time limit was given
                text += delta.text
                if delta.finish is not None:
                    used = _usage(delta)
                    return JSONResponse(completion(ident, int(time.time()), model, text, delta.finish, used))
        finally:
            job.cancel()

    async def _events(
        self, ident: str, model: str, job: Job, first: Delta | None, include_usage: bool
    ) -> AsyncIterator[str]:
        """Yield role, deltas, finish, usage when asked for, ``[DONE]``. Closing the stream cancels the job."""
        created = int(time.time())

        def event(change: dict[str, str] | None, finish: str | None = None, **more: Any) -> str:
            blank = {"usage": None} if include_usage else {}
            body = {**chunk(ident, created, model, change, finish), **blank, **more}
            return f"data: {json.dumps(body)}\n\n"

        delta = first
        try:
            yield event({"role": "assistant", "content": ""})
            while delta is None or delta.finish is None:
                if delta is None:
                    # a comment of server-sent events, which clients pass over
                    yield ": keep-alive\n\n"
                elif delta.text:
                    yield event({"content": delta.text})
                delta = await job.next(KEEP_ALIVE)
            if delta.text:
                yield event({"content": delta.text})
            yield event({}, delta.finish)
            if include_usage:
                yield event(None, usage=_usage(delta))
        except ApiError as error:
            yield f"data: {json.dumps(error.body())}\n\n"
        finally:
            job.cancel()
        yield "data: [DONE]\n\n"


async def _left(request: Request) -> None:
    """Return when the client has closed its connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _or_left(coming: Coroutine[Any, Any, T], leaving: asyncio.Task[None]) -> T:
    """Return what is coming; ApiError where the client leaves before it comes."""
    awaited = asyncio.ensure_future(coming)
    try:
        await asyncio.wait({awaited, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            raise ApiError(499, "The client closed the connection.")  # nginx's number for it
        return awaited.result()
    finally:
        awaited.cancel()


def _key(request: Request) -> tuple[str, Key] | None:
    """Return name and entry of the API key that the request came with."""
    found: tuple[str, Key] | None = request.scope["state"]["key"]
    return found


def _entry(request: Request) -> Key | None:
    """Return the entry of the request's key in the key file."""
    key = _key(request)
    return None if key is None else key[1]


def _message(error: SampleError, ident: str) -> str:
    """Return an error without the request's name, bounded: a library may have put much of a file into it."""
    message = str(error).removeprefix(f"{ident}: ")
    return f"{message[0].upper()}{message[1:LONGEST]}"


def _usage(delta: Delta) -> dict[str, Any]:
    """Return the token counts of an answer, given its last delta."""
    return usage(delta.prompt_tokens, delta.completion_tokens, delta.cached_tokens)
