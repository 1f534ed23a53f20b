"""Clients that open a connection and are slow: with a head, with a body, with reading the answer."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from mmllm.generation.generator import Generator
from mmllm.recipe.load import load_recipe
from mmllm.serving import app as module
from mmllm.serving.app import create_app
from mmllm.serving.connections import TimedConnection
from mmllm.serving.middleware import BodyLimit
from tests.support.places import ROOT
from tests.support.serving import LIMITS, MODEL, body, running

DEMO = ROOT / "recipes" / "mini" / "demo.yaml"


class Impatient(TimedConnection):
    head_seconds = 0.4
    write_seconds = 0.4


@pytest.fixture(scope="module")
def address(generator: Generator) -> Iterator[str]:
    app = create_app(generator, MODEL, LIMITS)
    (limit,) = [one for one in app.user_middleware if one.cls is BodyLimit]
    limit.kwargs |= {"idle": 0.4, "whole": 2.0}
    with running(app, http=Impatient, timeout_keep_alive=1) as url:
        yield url


def opened(address: str) -> socket.socket:
    parts = urlsplit(address)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


def until_closed(connection: socket.socket, drip: bytes = b"") -> float:
    """Seconds until the server closes a connection on which a byte is sent now and then."""
    begun = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < begun + 5:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(65536):
                return time.monotonic() - begun
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - begun
    raise AssertionError("still open")


@pytest.mark.parametrize("head", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_head_that_does_not_end_is_not_waited_for(address: str, head: bytes) -> None:
    with opened(address) as connection:
        connection.sendall(head)
        assert until_closed(connection, b"x: y\r\n" if head else b"") < 2


def test_nor_is_one_of_a_later_request(address: str) -> None:
    with opened(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert until_closed(connection, b"G") < 2


@pytest.mark.parametrize("drip", [b"", b" "])
def test_a_body_that_does_not_end_is_408(address: str, drip: bytes) -> None:
    with opened(address) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 5000\r\n\r\n{"
        )
        begun, said = time.monotonic(), b""
        connection.settimeout(0.1)
        while b"request_timeout" not in said:
            assert time.monotonic() < begun + 5
            try:
                if drip:
                    connection.sendall(drip)
                said += connection.recv(65536)
            except TimeoutError:
                pass
        assert said.startswith(b"HTTP/1.1 408")
        assert until_closed(connection, drip) < 3


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    megabyte = b"x" * 2**20

    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for left in reversed(range(64)):
            await send({"type": "http.response.body", "body": megabyte, "more_body": bool(left)})

    app = FastAPI()
    app.mount("/", long)
    with running(app, http=Impatient) as url, opened(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        time.sleep(1.0)
        connection.settimeout(5)
        seen = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(2**20):
                seen += len(piece)
        assert 0 < seen < 64 * len(megabyte)


def test_an_ordinary_client_notices_nothing(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for _ in range(2):
            assert client.post("/v1/chat/completions", json=body(max_tokens=1)).status_code == 200
            time.sleep(0.6)
        with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")


def test_an_idle_connection_outlives_the_clients_limit(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a client that asks again after just as long sends into a connection that is being closed."""
    seen: list[uvicorn.Config] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        seen.append(server.config)
        for one in sockets:
            one.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(module, "load_app", lambda *_: (load_recipe(DEMO), create_app(generator, MODEL, LIMITS)))
    monkeypatch.setattr(module, "_log_to_terminal", lambda: None)
    module.serve(Path("run"), port=0)
    assert seen[0].timeout_keep_alive > 2 * (httpx.Limits().keepalive_expiry or 0)
