"""The chat page as a user sees it: a real browser, a real Streamlit, a real server over a tiny real model.

``MMLLM_SCREENSHOT=chat.png`` keeps a picture of it; ``MMLLM_CHAT_SERVER=http://...`` asks a server that runs already.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image, ImageDraw

from mmllm.serving.app import create_app
from tests.support.chromium import executable, tab
from tests.support.places import ROOT
from tests.support.senses import FILES, every_sense, graph_file, points_file, sound_file, video_file
from tests.support.serving import MODEL, running, tiny_generator

pytestmark = [pytest.mark.browser, pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")]


@contextlib.contextmanager
def streamlit(server: str, log: Path) -> Iterator[str]:
    """The page as its users start it, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    options = ["--server.headless=true", f"--server.port={port}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options], cwd=ROOT, env={**os.environ, "MMLLM_SERVER": server}, stdout=out, stderr=out
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while not _healthy(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture
def server() -> Iterator[str]:
    given = os.environ.get("MMLLM_CHAT_SERVER")
    if given:
        yield given
        return
    with running(create_app(tiny_generator(), MODEL)) as url:
        yield url


@pytest.fixture
def image(tmp_path: Path) -> Path:
    given = os.environ.get("MMLLM_CHAT_IMAGE")
    path = tmp_path / "shapes.png"
    if given:
        shutil.copy(given, path)
        return path
    picture = Image.new("RGB", (320, 240), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((40, 60, 130, 150), fill="#d33")
    pen.ellipse((190, 90, 280, 180), fill="#36c")
    picture.save(path)
    return path


def test_a_user_attaches_a_video_a_sound_and_a_graph(tmp_path: Path) -> None:
    messages = "document.querySelectorAll('[data-testid=stChatMessage]')"
    files = {
        "clip.mp4": video_file(size=(96, 64)),
        "tone.wav": sound_file(seconds=2),
        "chain.json": graph_file(8),
        "sheet.npy": points_file(400),
        "letter.txt": FILES["document"][1],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with (
        running(create_app(every_sense(), MODEL)) as server,
        streamlit(server, tmp_path / "streamlit.log") as url,
        tab(url, tmp_path / "profile") as page,
    ):
        page.wait("document.body.innerText.includes('Attach an image, a video, a sound')", 120)
        for name in files:
            page.attach("[data-testid=stChatInput] input[type=file]", tmp_path / name)
            page.wait(f"document.querySelector('[data-testid=stChatInput]').innerText.includes('{name}')")
        page.type("[data-testid=stChatInputTextArea]", "What do you see and hear?")
        page.click("[data-testid=stChatInputSubmitButton]")
        page.wait(f"{messages}.length === 2 && {messages}[1].innerText.includes('first token')", 120)
        said = page.evaluate(f"{messages}[0].innerText")
        for words in ("clip.mp4: video of 2.8 s, 96 x 64 pixels", "0.00 s", "2.75 s", "tone.wav: sound of 2.0 s",
                      "graph of 8 nodes and 7 edges", "point cloud of 400 points", "the name is carl"):  # fmt: skip
            assert words in said, said
        pictures = f"[...{messages}[0].querySelectorAll('img')].map(one => one.naturalWidth)"
        page.wait(f"{pictures}.length === 9 && {pictures}.every(width => width > 0)")
        assert page.evaluate(f"{messages}[0].querySelectorAll('audio').length") == 1
        page.wait("document.querySelector('[data-testid=stStatusWidget]') === null")
        page.evaluate(f"{messages}[0].scrollIntoView()")
        shot = Path(os.environ.get("MMLLM_SCREENSHOT", tmp_path / "chat.png")).with_name("senses.png")
        page.screenshot(shot)
        assert page.errors == [] and "Traceback" not in (tmp_path / "streamlit.log").read_text()
        with Image.open(shot) as seen:
            assert len(seen.convert("RGB").getcolors(10**6) or ()) > 50


def test_a_user_attaches_an_image_and_asks(server: str, image: Path, tmp_path: Path) -> None:
    question = os.environ.get("MMLLM_CHAT_QUESTION", "What is on the left?")
    messages = "document.querySelectorAll('[data-testid=stChatMessage]')"
    with streamlit(server, tmp_path / "streamlit.log") as url, tab(url, tmp_path / "profile") as page:
        page.wait("document.body.innerText.includes('Attach an image')", 120)
        page.attach("[data-testid=stChatInput] input[type=file]", image)
        page.wait("document.querySelector('[data-testid=stChatInput]').innerText.includes('shapes.png')")
        page.type("[data-testid=stChatInputTextArea]", question)
        page.click("[data-testid=stChatInputSubmitButton]")
        page.wait(f"{messages}.length === 2 && {messages}[1].innerText.includes('first token')", 120)
        assert question in page.evaluate(f"{messages}[0].innerText")
        width = page.wait(f"{messages}[0].querySelector('img').naturalWidth")
        assert 0 < width <= 320
        page.type("[data-testid=stChatInputTextArea]", "And on the right?")
        page.click("[data-testid=stChatInputSubmitButton]")
        page.wait(f"{messages}.length === 4 && {messages}[3].innerText.includes('first token')", 120)
        page.wait("document.querySelector('[data-testid=stStatusWidget]') === null")
        shot = Path(os.environ.get("MMLLM_SCREENSHOT", tmp_path / "chat.png"))
        page.screenshot(shot)
        alerts = "document.querySelectorAll('[data-testid=stException], [data-testid=stAlert]')"
        assert page.evaluate(f"{alerts}.length") == 0
        assert page.errors == []
        with Image.open(shot) as seen:
            colours = seen.convert("RGB").resize((60, 45)).getcolors(60 * 45)
            assert seen.width >= 1000 and colours is not None and len(colours) > 10


class Liar(BaseHTTPRequestHandler):
    """A server whose model says addresses, and that notes who calls them."""

    called: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        card = {"id": "m", "max_model_len": 512, "file_types": {"image": ["png"]}}
        if self.path != "/v1/models":
            self.called.append(self.path)
        self._answer(json.dumps({"object": "list", "data": [card]}).encode(), "application/json")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        here = f"http://127.0.0.1:{self.server.server_address[1]}"
        said = f"Here: ![x]({here}/picture) <img src='{here}/html'> <script>fetch('{here}/script')</script> {here}/bare"
        choices = [({"content": said}, None), ({}, "stop")]
        events = [{"choices": [{"index": 0, "delta": one, "finish_reason": end}]} for one, end in choices]
        lines = [*(json.dumps(event) for event in events), "[DONE]"]
        self._answer("".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")

    def _answer(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_an_answer_makes_the_browser_call_nobody(tmp_path: Path) -> None:
    messages = "document.querySelectorAll('[data-testid=stChatMessage]')"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = f"http://127.0.0.1:{server.server_address[1]}"
        with streamlit(where, tmp_path / "streamlit.log") as url, tab(url, tmp_path / "profile") as page:
            page.wait("document.body.innerText.includes('Attach an image')", 120)
            page.type("[data-testid=stChatInputTextArea]", "Hi")
            page.click("[data-testid=stChatInputSubmitButton]")
            page.wait(f"{messages}.length === 2 && {messages}[1].innerText.includes('first token')", 120)
            assert "/bare" in page.evaluate(f"{messages}[1].innerText")
            page.wait("document.querySelector('[data-testid=stStatusWidget]') === null")
            assert page.evaluate(f"{messages}[1].querySelectorAll('[src], a, script').length") == 0
            page.screenshot(Path(os.environ.get("MMLLM_SCREENSHOT", tmp_path / "chat.png")).with_name("inert.png"))
    finally:
        server.shutdown()
        server.server_close()
    assert Liar.called == []
