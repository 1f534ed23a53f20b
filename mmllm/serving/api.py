"""What endpoints share: models that a request's key may use, threads that read requests. And the small endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from mmllm.serving.conversation import Inputs
from mmllm.serving.media import Limits
from mmllm.serving.metrics import Metrics
from mmllm.serving.models import Models, OneModel
from mmllm.serving.preview import Previewer, PreviewRequest
from mmllm.serving.schema import ApiError
from mmllm.serving.served import Served, Vocabulary
from mmllm.serving.worker import Worker

if TYPE_CHECKING:
    from mmllm.generation.generator import Generator
    from mmllm.serving.keys import Key
    from mmllm.serving.tasks.tools import Tools

READERS = 4
"""Number of requests whose media are read at once."""

T = TypeVar("T")


class Api:
    """The served models, and who may use them."""

    def __init__(
        self,
        generator: Generator,
        model_name: str,
        limits: Limits,
        models: Models | None = None,
        tools: Tools | None = None,
    ) -> None:
        """``models``: all that are offered, default: the one of ``generator``, called ``model_name``; ``tools``: that
        answers may ask for."""
        self.tools = tools
        self.models_offered = models or OneModel(generator, model_name)
        self.limits = limits
        self.metrics = Metrics()
        self.worker = Worker(generator, limits.max_waiting)
        # one engine answers for all models
        self.metrics.watch(model_name, lambda: self.worker.load, lambda: self.worker.alive)
        self.previewer = Previewer(Inputs.of(generator), limits)
        self._vocabularies: WeakKeyDictionary[object, Vocabulary] = WeakKeyDictionary()
        self.readers = ThreadPoolExecutor(READERS, "media")
        self.reading_media = self.reading_texts = 0
        """Number of requests with and without media that are being read, or wait for that."""

    def start(self) -> None:
        """Begin to answer."""
        self.worker.start()

    def close(self) -> None:
        """End what runs and waits."""
        self.worker.close()
        self.models_offered.close()
        if self.tools is not None:
            self.tools.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    # ---- for endpoints

    @asynccontextmanager
    async def lease(self, name: str, request: Request) -> AsyncIterator[Served]:
        """Return a model, which stays until the end of an ``async with``; ApiError 404 where there is none."""
        async with self.models_offered.lease(name, entry_of(request)) as leased:
            vocabulary, metrics = self._vocabulary(leased.generator), self.metrics.of(leased.name)
            yield Served(
                leased.name,
                leased.generator,
                leased.inputs,
                self.worker,
                self.limits,
                vocabulary,
                metrics,
                leased.calibration,
            )

    def _vocabulary(self, generator: Generator) -> Vocabulary:
        """Return what is made of the tokens of a generator's LLM, once for each."""
        if generator.llm not in self._vocabularies:
            self._vocabularies[generator.llm] = Vocabulary(generator)
        return self._vocabularies[generator.llm]

    async def read(self, has_media: bool, work: Callable[..., T], *args: Any) -> T:
        """Run work that reads a request, which has a place in the queue meanwhile; ApiError 429 where there is none.

        Media are read on threads kept for them: slow files hold up no request without media.
        """
        if not has_media:
            self.worker.check_room(self.reading_texts)
            self.reading_texts += 1
            try:
                return await asyncio.to_thread(work, *args)
            finally:
                self.reading_texts -= 1
        self.worker.check_room(self.reading_media + self.reading_texts)
        self.reading_media += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.readers, work, *args)
        finally:
            self.reading_media -= 1

    # ---- endpoints

    async def health(self) -> JSONResponse:
        """Return 200 while requests can be answered, else 503."""
        running, waiting = self.worker.load
        ok = self.worker.alive
        body = {"status": "ok" if ok else "unavailable", "running": running, "waiting": waiting}
        return JSONResponse(body, 200 if ok else 503)

    async def ready(self) -> JSONResponse:
        """Return 200 where a request would be taken now, else 503: the queue is full, or nothing is answered."""
        try:
            self.worker.check_room(self.reading_media + self.reading_texts)
        except ApiError as error:
            return JSONResponse({"status": "not ready"}, 503, headers=error.headers)
        return JSONResponse({"status": "ready"})

    async def numbers(self, request: Request) -> Response:
        """Return the server's numbers for Prometheus; a key sees them where its entry says so."""
        key = key_of(request)
        if key is not None and not key[1].metrics:
            message = "This key may not read the server's numbers; its entry in the key file has no metrics: true."
            raise ApiError(403, message, code="no_metrics")
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> dict[str, Any]:
        """Return the list of models that the request's key may see."""
        return {"object": "list", "data": await asyncio.to_thread(self.models_offered.cards, entry_of(request))}

    async def model(self, name: str, request: Request) -> dict[str, Any]:
        """Return one model by its id."""
        return await asyncio.to_thread(self.models_offered.card, name, entry_of(request))

    async def preview(self, body: PreviewRequest, request: Request) -> dict[str, Any]:
        """Return a view for people of one media part as the model is shown it; not part of OpenAI's API."""
        if not await asyncio.to_thread(self.models_offered.cards, entry_of(request)):
            raise ApiError(404, "This key may use no model, so it sees no preview.", code="model_not_found")
        return await self.read(True, self.previewer.of_part, body.part)


def key_of(request: Request) -> tuple[str, Key] | None:
    """Return name and entry of the API key that the request came with."""
    found: tuple[str, Key] | None = request.scope["state"]["key"]
    return found


def tenant_of(request: Request) -> str:
    """Return whose a request is: the name of its key, never anything of its body."""
    key = key_of(request)
    return "" if key is None else key[0]


def entry_of(request: Request) -> Key | None:
    """Return the entry of the request's key in the key file."""
    key = key_of(request)
    return None if key is None else key[1]


def ident_of(request: Request, prefix: str) -> str:
    """Return an answer's id: the request's, so that an answer and the log's lines about it can be matched."""
    return f"{prefix}{request.scope['state']['request_id'].removeprefix('req_')}"
