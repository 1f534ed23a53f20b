"""The chat page's side of the HTTP API: models, streamed answers, and sentences for what can go wrong.

Used by the page alone; it imports nothing of this project, the server may run on another machine. ``views.py`` beside
it asks how media look to a model.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

ADVICE = {
    401: "Give one in the field Key.",
    413: "Send fewer or smaller files.",
    429: "Ask again in a moment.",
    500: "The terminal of the server says what happened.",
    503: "Start the server again, or wait until it is ready.",
}


IDENT = re.compile(r"\b(?:chatcmpl|req|tok|view)[-_][0-9a-f]{8,}:?\s*")
"""Ids of requests, which say something in the server's log alone."""


class ServerFault(Exception):
    """A fault that the page shows instead of an answer: a sentence and what to do about it."""

    def __init__(self, message: str, code: str | None = None, status: int | None = None) -> None:
        """``code``: OpenAI's, where the server named one; ``status``: of its HTTP answer."""
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True)
class Server:
    """Where the API is, and the key to it."""

    address: str
    key: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Card:
    """Entry of a model in ``/v1/models``."""

    context: int
    """Length of the context in tokens, media included."""
    file_types: Mapping[str, list[str]]
    """Modality -> endings of the files it takes."""

    def modality(self, name: str) -> str | None:
        """Return the modality of a file by its ending; None where the model does not take it."""
        ending = name.rpartition(".")[2].lower()
        return next((modality for modality, endings in self.file_types.items() if ending in endings), None)

    @property
    def endings(self) -> list[str]:
        """Return the endings of all files it takes."""
        return [ending for endings in self.file_types.values() for ending in endings]


@dataclass
class Answer:
    """One streamed answer: iterate ``deltas`` once, then read the note."""

    server: Server
    request: dict[str, Any]
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    finish: str | None = None
    first: float | None = None
    """Seconds to the first piece."""
    seconds: float = 0.0
    pieces: int = 0
    tags: list[dict[str, Any]] = field(default_factory=list)
    """What the server's tools made of it, see ``serve.tags``."""

    async def deltas(self) -> AsyncGenerator[str]:
        """Yield texts as they arrive; ServerFault for every way in which it can go wrong."""
        started = time.monotonic()
        body = {**self.request, "stream": True, "stream_options": {"include_usage": True}}
        # between two pieces of an answer, not for all of it; a wrong address shows at once
        patience = httpx.Timeout(600, connect=5)
        url = f"{self.server.address}/v1/chat/completions"
        try:
            async with (
                httpx.AsyncClient(timeout=patience, headers=self.server.headers) as http,
                http.stream("POST", url, json=body) as reply,
            ):
                if reply.status_code != 200:
                    await reply.aread()
                    raise fault(reply.status_code, reply.text)
                async with aclosing(events(reply)) as arriving:
                    async for event in arriving:
                        delta = self._take(event)
                        if delta:
                            self.first = self.first or time.monotonic() - started
                            self.text += delta
                            self.pieces += 1
                            yield delta
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if self.pieces:
                raise ServerFault("The answer broke off. " + ADVICE[500]) from error
            raise unreachable(self.server) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerFault(f"{self.server.address} answers in another form; is it an OpenAI API?") from error
        finally:  # also where nobody waits for the rest
            self.seconds = time.monotonic() - started
        if self.finish is None:
            raise ServerFault("The answer broke off. " + ADVICE[500])

    def _take(self, event: dict[str, Any]) -> str:
        if "error" in event:
            raise ServerFault(f"{plain(event['error']['message'])} {ADVICE[500]}")
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            self.tags = choice["delta"].get("tags") or self.tags
            return choice["delta"].get("content") or ""
        return ""

    def note(self) -> str:
        """Return time to the first token, tokens and speed, in one line."""
        # a stopped answer has no usage; its pieces are its tokens, but for those of no letter of their own
        completion = self.usage.get("completion_tokens", self.pieces)
        first = self.seconds if self.first is None else self.first
        parts = [f"first token {first:.2f} s", f"{completion} tokens"]
        if self.seconds:
            parts.append(f"{completion / self.seconds:.1f} tokens/s")
        if self.usage:
            parts.append(f"prompt {self.usage.get('prompt_tokens', 0)} tokens")
        ends = {"length": "cut at max tokens", None: "stopped"}
        return " · ".join([*parts, *([ends[self.finish]] if self.finish in ends else [])])


async def events(reply: httpx.Response) -> AsyncGenerator[dict[str, Any]]:
    """Yield the JSON events of a stream up to ``[DONE]``, comment lines left out."""
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def plain(message: str) -> str:
    """Return a server's message as a sentence, without ids of its own."""
    message = IDENT.sub("", message).strip()
    return message if message.endswith((".", "!", "?")) else f"{message}."


def fault(status: int, text: str) -> ServerFault:
    """Return a refusal of the server as a fault, with advice for the statuses a user can do something about."""
    try:
        error = json.loads(text)["error"]
        message, code = plain(str(error["message"])), error["code"]
    except (ValueError, KeyError, TypeError):
        message, code = f"The server answered with HTTP {status}.", None
    advice = ADVICE.get(status, "")
    if code == "context_length_exceeded":
        advice = "Start a new chat, send fewer or smaller files or lower the max tokens."
    return ServerFault(f"{message} {advice}".strip(), code, status)


def unreachable(server: Server) -> ServerFault:
    """Return the fault of an address where nobody listens."""
    return ServerFault(
        f"No server answers at {server.address}. Start one with `mmllm serve runs/demo`, or change the address."
    )


def models(server: Server) -> dict[str, Card]:
    """Return model names -> their cards; ServerFault when there is no server."""
    try:
        reply = httpx.get(f"{server.address}/v1/models", headers=server.headers, timeout=5)
        if reply.status_code in (401, 403, 421):  # it is there, and does not let the page in
            raise fault(reply.status_code, reply.text)
        reply.raise_for_status()
        cards = reply.json()["data"]
        return {card["id"]: Card(int(card["max_model_len"]), card.get("file_types", {})) for card in cards}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise unreachable(server) from error


def post(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what the server answers to a JSON body; ServerFault where it refuses, or answers something else."""
    try:
        reply = httpx.post(
            f"{server.address}{path}", json=body, headers=server.headers, timeout=httpx.Timeout(120, connect=5)
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unreachable(server) from error
    if reply.status_code != 200:
        raise fault(reply.status_code, reply.text)
    try:
        answer: dict[str, Any] = reply.json()
    except ValueError as error:
        raise ServerFault(f"{server.address} answered with no JSON; is it another kind of server?") from error
    return answer


def room(server: Server, request: dict[str, Any]) -> int:
    """Return the number of tokens that an answer to ``request`` has room for; ServerFault where that is not told."""
    body = {name: request[name] for name in ("model", "messages")}
    answer = post(server, "/tokenize", body)
    try:
        return int(answer["max_model_len"]) - int(answer["count"])
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFault(f"{server.address} does not say how long the conversation is.") from error


def file_part(name: str, data: bytes, modality: str) -> dict[str, Any]:
    """Return a file of any modality as a part of a message."""
    url = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
    return {"type": "file", "file": {"filename": name, "file_data": url, "modality": modality}}
