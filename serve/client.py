"""The chat page's side of the HTTP API: models, previews, streamed answers, and sentences for what can go wrong.

Used by ``streamlit_app.py`` alone; it imports nothing of this project, the server may run on another machine.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Iterator, Mapping
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


class ServerFault(Exception):
    """A fault that the page shows instead of an answer: one sentence and what to do about it."""


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


@dataclass(frozen=True)
class Preview:
    """A media item as the server shows it."""

    caption: str
    pictures: tuple[tuple[str, bytes], ...] = ()
    """Pairs of a caption and a PNG file."""
    text: str = ""


@dataclass
class Answer:
    """One streamed answer: iterate ``deltas`` once, then read the note."""

    server: Server
    request: dict[str, Any]
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    finish: str | None = None
    first: float | None = None
    seconds: float = 0.0

    def deltas(self) -> Iterator[str]:
        """Yield texts as they arrive; ServerFault for every way in which it can go wrong."""
        started = time.monotonic()
        body = {**self.request, "stream": True, "stream_options": {"include_usage": True}}
        # between two pieces of an answer, not for all of it; a wrong address shows at once
        patience = httpx.Timeout(600, connect=5)
        try:
            with httpx.stream(
                "POST",
                f"{self.server.address}/v1/chat/completions",
                json=body,
                headers=self.server.headers,
                timeout=patience,
            ) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise fault(reply.status_code, reply.text)
                for event in events(reply):
                    delta = self._take(event)
                    if delta:
                        self.first = self.first or time.monotonic() - started
                        self.text += delta
                        yield delta
        except httpx.HTTPError as error:
            raise unreachable(self.server) from error
        self.seconds = time.monotonic() - started
        if self.finish is None:
            raise ServerFault("The answer broke off. " + ADVICE[500])

    def _take(self, event: dict[str, Any]) -> str:
        if "error" in event:
            raise ServerFault(f"{event['error']['message']} {ADVICE[500]}")
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            return choice["delta"].get("content") or ""
        return ""

    def note(self) -> str:
        """Return time to the first token, tokens and speed, in one line."""
        prompt, completion = self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", 0)
        first = self.seconds if self.first is None else self.first
        speed = f" · {completion / self.seconds:.1f} tokens/s" if self.seconds else ""
        cut = " · cut at max tokens" if self.finish == "length" else ""
        return f"first token {first:.2f} s · {completion} tokens{speed} · prompt {prompt} tokens{cut}"


def events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a stream up to ``[DONE]``, comment lines left out."""
    for line in reply.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def fault(status: int, text: str) -> ServerFault:
    """Return a refusal of the server as a fault, with advice for the statuses a user can do something about."""
    try:
        error = json.loads(text)["error"]
        message, code = str(error["message"]), error["code"]
    except (ValueError, KeyError, TypeError):
        message, code = f"The server answered with HTTP {status}.", None
    advice = ADVICE.get(status, "")
    if code == "context_length_exceeded":
        advice = "Start a new chat, send fewer or smaller files or lower the max tokens."
    return ServerFault(f"{message} {advice}".strip())


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


def file_part(name: str, data: bytes, modality: str) -> dict[str, Any]:
    """Return a file of any modality as a part of a message."""
    url = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
    return {"type": "file", "file": {"filename": name, "file_data": url, "modality": modality}}


def preview(server: Server, part: dict[str, Any]) -> Preview:
    """Ask how the server shows a media part; ServerFault where it cannot read it."""
    try:
        reply = httpx.post(
            f"{server.address}/preview",
            json={"part": part},
            headers=server.headers,
            timeout=httpx.Timeout(120, connect=5),
        )
    except httpx.HTTPError as error:
        raise unreachable(server) from error
    if reply.status_code != 200:
        raise fault(reply.status_code, reply.text)
    try:
        body = reply.json()
        pictures = tuple((one["caption"], _bytes(one["url"])) for one in body["pictures"])
        return Preview(body["caption"], pictures, body["text"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise ServerFault(
            f"{server.address} answered with no preview; is it another version of this project?"
        ) from error


def _bytes(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2], validate=True)
