"""A tiny random multimodal model and a real server around it, shared by the tests of the server and the chat page."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.generation.generator import Generator
from mmllm.model.model import MultimodalLM
from mmllm.serving.media import Limits
from mmllm.testing.tiny import encoders as tiny_encoders
from tests.support.parts import tiny_llm

MODEL = "tiny"
LIMITS = Limits(max_images=3, max_pixels=10_000, max_request_pixels=15_000, max_body=300_000, max_new_tokens=12)


def tiny_generator(family: str = "llama", seed: int = 0) -> Generator:
    """A random LLM of 4 blocks with a context of 256 and a random encoder of images behind an mlp."""
    torch.manual_seed(seed)
    llm = tiny_llm(family, seed)
    encoder = tiny_encoders.hf_vision()
    connector = MlpConnector(dim=encoder.dim * len(encoder.layers), llm_dim=llm.dim)
    return Generator(MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"}))


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", size, colour)


def file_bytes(image: Image.Image, form: str = "PNG") -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """The bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


RED = data_url(file_bytes(picture("red")))
BLUE = data_url(file_bytes(picture("blue")))


def image_part(url: str = RED) -> dict[str, Any]:
    """An image as a part of a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def video_part(data: bytes, kind: str = "video/mp4") -> dict[str, Any]:
    """A video as a part of a message."""
    return {"type": "video_url", "video_url": {"url": data_url(data, kind)}}


def sound_part(data: bytes, form: str = "wav") -> dict[str, Any]:
    """A sound as a part of a message."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}


def file_part(name: str, data: bytes, kind: str = "application/octet-stream", **more: Any) -> dict[str, Any]:
    """A file of any sense as a part of a message."""
    return {"type": "file", "file": {"filename": name, "file_data": data_url(data, kind), **more}}


def text_part(text: str) -> dict[str, Any]:
    """A text as a part of a message."""
    return {"type": "text", "text": text}


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def body(content: Any = "Hi", **more: Any) -> dict[str, Any]:
    """A request with one message and six new tokens."""
    return {"model": MODEL, "messages": [user(content)], "max_tokens": 6, **more}


def post(http: TestClient, data: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer, which carries a request id."""
    answer = http.post("/v1/chat/completions", json=data)
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.status_code, answer.json()


def error_of(http: TestClient, data: Any, status: int = 400) -> dict[str, Any]:
    """The error of an answer, which is in the envelope and short."""
    got, answer = post(http, data)
    assert got == status, answer
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    assert len(answer["error"]["message"]) < 1200
    return answer["error"]


@contextlib.contextmanager
def running(app: FastAPI, **options: Any) -> Iterator[str]:
    """Serve ``app`` by uvicorn on a free port of this machine, on a thread; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def local(app: FastAPI, **options: Any) -> TestClient:
    """A client on the machine of the server, which is in this process."""
    return TestClient(app, base_url="http://127.0.0.1", **options)


def answer(http: TestClient, *content: dict[str, Any]) -> str:
    """What is answered to one message of these parts."""
    status, got = post(http, body(list(content)))
    assert status == 200, got
    return got["choices"][0]["message"]["content"]
