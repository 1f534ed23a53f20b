"""The server's queue, cancellation and failures, over a generator whose pace the test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from mmllm.generation.generator import Encoded, Generator
from mmllm.generation.memory import Sizes
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from mmllm.types import Message, Sample
from tests.support.serving import (
    LIMITS,
    MODEL,
    body,
    error_of,
    local,
    post,
    running,
    tiny_generator,
    user,
)


class Paced(Generator):
    """The tiny generator, one answer at a time, a pass for each ``go``; an answer fails after ``fail_after`` tokens."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(tiny_generator().model, Sizes(rows=1))
        self.go = threading.Semaphore(0)
        self.fail_after = fail_after
        self._advance = self.engine.way.advance
        self.engine.way.advance = self._paced  # type: ignore[method-assign]

    def _paced(self) -> Iterator[Any]:
        if self.engine.way.requests:
            assert self.go.acquire(timeout=20)
            if len(self.engine.way.requests[0].tokens) == self.fail_after:
                raise RuntimeError("secret at 0xdeadbeef in /root/model.py")
        return self._advance()


def said(limit: int) -> str:
    """What the model answers to "Hi"."""
    sample = Sample("hi", (Message("user", "Hi"),))
    return tiny_generator().generate([sample], limit)[0].text


def wait_for(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_full_queue_is_429_and_clears() -> None:
    paced = Paced()
    with (
        running(create_app(paced, MODEL, Limits(max_waiting=1))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        answers: list[str | None] = []

        def ask() -> None:
            done = client.chat.completions.create(model=MODEL, messages=[user("Hi")], max_tokens=2)
            answers.append(done.choices[0].message.content)

        def health() -> Any:
            return client.get("/../health", cast_to=dict[str, Any])

        threads = [threading.Thread(target=ask) for _ in range(2)]
        threads[0].start()
        wait_for(lambda: health()["running"] == 1)
        threads[1].start()
        wait_for(lambda: health()["waiting"] == 1)
        with pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(model=MODEL, messages=[user("Hi")], max_tokens=2)
        assert full.value.code == "queue_full" and 1 <= int(full.value.response.headers["retry-after"]) <= 30
        paced.go.release(4)
        for thread in threads:
            thread.join(20)
        assert answers == [said(2)] * 2
        assert health() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_frees_the_model(stream: bool) -> None:
    paced = Paced()
    with (
        running(create_app(paced, MODEL, Limits(max_waiting=1))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        if stream:
            paced.go.release(2)
            chunks = client.chat.completions.create(model=MODEL, messages=[user("Hi")], max_tokens=200, stream=True)
            assert next(iter(chunks)).choices[0].delta.role == "assistant"
            chunks.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model=MODEL, messages=[user("Hi")], max_tokens=200, timeout=0.5)
            time.sleep(1.0)  # the server asks for the connection twice a second
        deadline = time.monotonic() + 2
        while paced.engine.load != (0, 0):  # the model goes on at its pace until it is told
            assert time.monotonic() < deadline, "the model was not told that nobody listens"
            paced.go.release(1)
            time.sleep(0.02)
        paced.go.release(1)
        again = client.chat.completions.create(model=MODEL, messages=[user("Hi")], max_tokens=1)
        assert again.choices[0].message.content == said(1)


@pytest.mark.parametrize("fail_after", [0, 1])
def test_a_failing_model_says_nothing_of_its_inside_and_goes_on(
    fail_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    paced = Paced(fail_after)
    paced.go.release(20)
    with local(create_app(paced, MODEL, LIMITS), raise_server_exceptions=False) as http:
        error = error_of(http, body(), 500)
        assert "0x" not in error["message"] and "/root" not in error["message"] and error["type"] == "server_error"
        streamed = http.post("/v1/chat/completions", json=body(stream=True))
        if fail_after:
            assert streamed.status_code == 200 and streamed.text.endswith("data: [DONE]\n\n")
            events = [json.loads(line[6:]) for line in streamed.text.split("\n\n")[:-2]]
            assert events[-1]["error"]["type"] == "server_error"
        else:
            assert streamed.status_code == 500
        assert "secret" in caplog.text  # the log has it
        paced.fail_after = None
        assert post(http, body(max_tokens=1))[0] == 200


def test_an_unforeseen_failure_is_an_envelope_with_an_id(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Encoded:
        raise RuntimeError("secret at 0xdeadbeef")

    with local(create_app(generator, MODEL, LIMITS), raise_server_exceptions=False) as http:
        monkeypatch.setattr(generator, "encode", broken)
        error = error_of(http, body(), 500)
        assert "secret" not in error["message"]


def test_closing_the_server_ends_its_thread(generator: Generator) -> None:
    def workers() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name == "generator"}

    before = workers()
    with local(create_app(generator, MODEL, LIMITS)) as http:
        assert http.get("/health").status_code == 200 and len(workers() - before) == 1
    assert workers() <= before
