"""Numbers about the server for Prometheus: what runs and waits, tokens, times, answers by status (``GET /metrics``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from mmllm.generation.answers import Delta

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper ends of the classes of times."""
KNOWN_PATH = re.compile(r"/(?:health|ready|metrics|preview|tokenize|v1/[a-z]+(?:/[a-z]+)?)$")
"""Paths that are counted by name; a name of any other path would let clients fill the memory."""


class Metrics:
    """All numbers of one server; its registry is its own, so that two servers in a process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mmllm_{name}", text, ["model", *labels], registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"mmllm_{name}", text, ["model"], registry=self.registry, buckets=SECONDS)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"mmllm_{name}", text, ["model"], registry=self.registry)

        self.running = gauge("requests_running", "Answers that are being made.")
        self.waiting = gauge("requests_waiting", "Answers that wait for a place.")
        self.up = gauge("up", "1 while the model can answer.")
        self.answers = counter("answers", "Answers that were completed, by the reason of their end.", "finish_reason")
        self.failures = counter("failures", "Answers that ended by an error.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts, media included.")
        self.cached_tokens = counter("cached_prompt_tokens", "Tokens of prompts that were not read again.")
        self.generated_tokens = counter("generated_tokens", "Tokens of answers.")
        self.first = histogram("time_to_first_token_seconds", "From the queue to the first piece of an answer.")
        self.whole = histogram("answer_seconds", "From the queue to the end of an answer.")
        self.responses = Counter("mmllm_http_responses", "Answers of HTTP.", ["path", "status"], registry=self.registry)

    def of(self, model: str) -> ModelMetrics:
        """Return what one model's worker counts with."""
        return ModelMetrics(self, model)

    def watch(self, model: str, load: Callable[[], tuple[int, int]], alive: Callable[[], bool]) -> None:
        """Ask whenever the numbers are read how many answers run and wait, and whether the model can answer."""
        self.running.labels(model).set_function(lambda: load()[0])
        self.waiting.labels(model).set_function(lambda: load()[1])
        self.up.labels(model).set_function(alive)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """Numbers of one model; safe to call from any thread."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def first(self, seconds: float) -> None:
        """Note the first piece of an answer."""
        self._metrics.first.labels(self._model).observe(seconds)

    def finished(self, delta: Delta, seconds: float) -> None:
        """Note the end of an answer, by its last piece."""
        found, model = self._metrics, self._model
        found.answers.labels(model, delta.finish).inc()
        found.prompt_tokens.labels(model).inc(delta.prompt_tokens)
        found.cached_tokens.labels(model).inc(delta.cached_tokens)
        found.generated_tokens.labels(model).inc(delta.completion_tokens)
        found.whole.labels(model).observe(seconds)

    def failed(self) -> None:
        """Note an answer that ended by an error."""
        self._metrics.failures.labels(self._model).inc()


class CountedResponses:
    """Middleware that counts answers of HTTP by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; only HTTP is counted."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] if KNOWN_PATH.match(scope["path"]) else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # of a path that does not exist the name is the client's
                known = "other" if message["status"] in (404, 405) else path
                self.metrics.responses.labels(known, str(message["status"])).inc()
            await send(message)

        return await self.app(scope, receive, counted)
