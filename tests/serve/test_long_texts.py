"""Texts far over the context, and many texts at once: what they cost before they are refused."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi.testclient import TestClient

from mmllm.errors import TooLongError
from mmllm.generation.generator import Encoded, Generator
from mmllm.generation.memory import Sizes
from mmllm.messages.tokenize import Prompter
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from mmllm.serving.middleware import TextRun
from mmllm.types import Message, Sample
from tests.support.serving import MODEL, body, error_of, local, post, tiny_generator


def test_a_text_that_no_context_holds_is_refused_before_it_is_tokenised(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenised(*_: object) -> None:
        raise AssertionError("tokenised")

    monkeypatch.setattr(Prompter, "tokenize_prompt", tokenised)
    error = error_of(http, body("word " * 5_000))
    assert error["code"] == "context_length_exceeded" and "25000 characters" in error["message"]
    assert "chatcmpl" not in error["message"]


def test_its_refusal_costs_next_to_nothing(generator: Generator) -> None:
    sample = Sample("long", (Message("user", "word " * 2_000_000),))
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(TooLongError, match="10000000 characters are over the context of 256 tokens"):
        generator.encode(sample)
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.05 and peak < 1_000_000


def test_every_text_that_fits_the_context_is_under_the_bound(generator: Generator) -> None:
    prompter = generator.prompter
    text = max(generator.llm.tokenizer.get_vocab(), key=len).strip("Ġ") * 20
    n_tokens = len(prompter.tokenize_prompt(Sample("x", (Message("user", text),))).ids)
    assert len(text) <= n_tokens * prompter.longest_token


def test_texts_that_are_being_read_take_places_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(tiny_generator().model, Sizes(rows=1))
    begun, go, encode = threading.Semaphore(0), threading.Event(), generator.encode

    def slow(sample: Sample, tenant: str = "") -> Encoded:
        begun.release()
        assert go.wait(20)
        return encode(sample)

    monkeypatch.setattr(generator, "encode", slow)
    with (
        local(create_app(generator, MODEL, Limits(max_waiting=1)), raise_server_exceptions=False) as http,
        ThreadPoolExecutor(2) as clients,
    ):
        asked = [clients.submit(post, http, body(max_tokens=1)) for _ in range(2)]
        try:
            assert begun.acquire(timeout=20) and begun.acquire(timeout=20)
            assert error_of(http, body(), 429)["code"] == "queue_full"
        finally:
            go.set()
        assert [one.result(20)[0] for one in asked] == [200, 200]


def fed(raw: bytes, size: int) -> list[int]:
    """What is said of a body that arrives in pieces of this size."""
    run = TextRun()
    return [run.feed(raw[start : start + size]) for start in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_text_is_counted_while_it_arrives(size: int) -> None:
    text = ('say \\"hi\\" and \\\\' + "word " * 20) * 30
    raw = f'{{"messages": [{{"role": "user", "content" : "{text}"'.encode()
    assert fed(raw, size)[-1] in (0, len(text)) and max(fed(raw[:-1], size)) == len(text)
    assert max(fed(b'{"image_url": {"url": "data:image/png;base64,' + b"A" * 5000, size)) == 0
    assert max(fed(b'{"text": "a", "data": "' + b"A" * 5000, size)) <= 1
    assert fed(b'{"text": "a", "more": [' + b"1, " * 500, size)[-1] == 0


def test_a_body_is_refused_without_being_kept_or_parsed(address: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "'.encode()
        for _ in range(20):
            yield b"word " * 2000
        yield b'"}]}'

    answer = httpx.post(
        f"{address}/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert "A text is over 3072 characters" in answer.json()["error"]["message"]
