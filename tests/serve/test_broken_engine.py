"""An engine that breaks for good or for once, and clients that leave: open requests end, and ``/health`` tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.packed import Packed
from mmllm.serving.app import create_app
from tests.support.serving import LIMITS, MODEL, body, error_of, local, post, running, tiny_generator


@pytest.fixture
def fresh() -> Generator:
    return Generator(tiny_generator().model, Sizes(rows=2))


@pytest.fixture
def http(fresh: Generator) -> Iterator[TestClient]:
    with local(create_app(fresh, MODEL, LIMITS), raise_server_exceptions=False) as client:
        yield client


def breaking(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], BaseException | None]) -> None:
    """Every pass of every engine asks first whether it is to fail."""
    advance = Packed.advance

    def advanced(self: Packed) -> Any:
        error = fails() if self.requests else None
        if error is not None:
            raise error
        return advance(self)

    monkeypatch.setattr(Packed, "advance", advanced)


def assertion() -> RuntimeError:
    return RuntimeError("CUDA error: device-side assert triggered")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_three_failures_in_a_row_are_the_end_of_health(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert http.get("/health").status_code == 200
    breaking(monkeypatch, assertion)
    for _ in range(3):
        assert error_of(http, body(), 500)["type"] == "server_error"
    wait_for(lambda: http.get("/health").status_code == 503)
    assert http.get("/health").json()["status"] == "unavailable"
    assert error_of(http, body(), 503)["type"] == "service_unavailable"


def test_an_engine_that_works_after_a_restart_goes_on(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Packed] = []
    advance, begin = Packed.advance, Packed.__init__

    def counted(self: Packed, *words: Any) -> None:
        made.append(self)
        begin(self, *words)

    def broken(self: Packed) -> Any:
        if self is made[0] and self.requests:
            raise assertion()
        return advance(self)

    monkeypatch.setattr(Packed, "__init__", counted)
    monkeypatch.setattr(Packed, "advance", broken)
    for _ in range(3):
        error_of(http, body(), 500)
    wait_for(lambda: len(made) == 2 and http.get("/health").status_code == 200)
    assert post(http, body())[0] == 200


def test_requests_that_are_each_at_fault_do_not_restart_it(
    fresh: Generator, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, restarted = fresh.engine, []
    monkeypatch.setattr(engine, "restart", restarted.append)
    breaking(
        monkeypatch, lambda: assertion() if any(len(one.encoded.ids) > 60 for one in engine.way.requests) else None
    )
    for _ in range(7):
        error_of(http, body("poison " * 30), 500)
    assert post(http, body())[0] == 200 and http.get("/health").status_code == 200 and not restarted


def test_a_thread_that_ends_fails_what_is_open_and_is_started_once(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[BaseException] = [SystemExit(1)]
    breaking(monkeypatch, lambda: ends.pop() if ends else None)
    begun = time.monotonic()
    assert error_of(http, body(), 503)["message"].startswith("The model stopped")
    assert time.monotonic() - begun < 5
    wait_for(lambda: http.get("/health").status_code == 200)
    assert post(http, body())[0] == 200
    ends.append(SystemExit(1))
    error_of(http, body(), 503)
    wait_for(lambda: http.get("/health").status_code == 503)
    error_of(http, body(), 503)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_tokens_come_frees_its_place(
    fresh: Generator, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slowly() -> None:
        begun.set()
        time.sleep(0.05)  # faster than any polling for the client's leaving, so only being told of it helps

    breaking(monkeypatch, slowly)
    with running(create_app(fresh, MODEL, LIMITS)) as url:
        asked = body(max_tokens=200, stream=stream)
        with pytest.raises(httpx.ReadTimeout):
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=0.3) as answer:
                for _ in answer.iter_raw():
                    pass
                raise httpx.ReadTimeout("all of it came" if not stream else "")
        assert begun.is_set()
        left = time.monotonic()
        wait_for(lambda: fresh.engine.load == (0, 0))
        assert time.monotonic() - left < 0.5
