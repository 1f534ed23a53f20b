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
from tests.support.chromium import Tab, executable, tab
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
        page.wait(f"{messages}[0].innerText.includes('2.75 s')")  # captions come with their pictures
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


SAID = """The **red square** is [0.125,0.25,0.41,0.625], the blue disc [0.59,0.37,0.88,0.75].

![x]({here}/picture) <img src='{here}/html'> <script>fetch('{here}/script')</script> {here}/bare
"""
JSON = '{{"shop": "![x]({here}/tree)", "items": [{{"name": "{here}/leaf", "price": 2.5}}]}}'


class Liar(BaseHTTPRequestHandler):
    """A server of two models that say addresses, slowly, and that notes who calls them and who left."""

    called: ClassVar[list[str]] = []
    left: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        cards = [{"id": name, "max_model_len": 512, "file_types": {"image": ["png"]}} for name in ("one", "two")]
        if self.path != "/v1/models":
            self.called.append(self.path)
        self._answer(json.dumps({"object": "list", "data": cards}).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        here = f"http://{self.headers['host']}"
        asked = json.dumps(body["messages"][-1])
        if "odd" in asked:
            message = f"chatcmpl-0123456789abcdef: ![x]({here}/fault) is too odd"
            return self._answer(json.dumps({"error": {"message": message, "code": None}}).encode(), "text/json", 400)
        words = (JSON if "JSON" in asked else SAID).format(here=here).split(" ")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for word in words * (100 if "slowly" in asked else 1):
                self._event({"content": f"{word} "}, None)
                time.sleep(0.1 if "slowly" in asked else 0)
            self._event({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.left.append(body["model"])

    def _event(self, delta: dict[str, str], finish: str | None) -> None:
        event = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _answer(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def liar() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    Liar.called, Liar.left = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def press(page: Tab, text: str) -> None:
    """Click the button of a text."""
    found = f"[...document.querySelectorAll('button')].filter(one => one.innerText.includes({json.dumps(text)}))"
    page.wait(f"{found}.length > 0")
    page.evaluate(f"{found}[0].click()")


def ask(page: Tab, text: str) -> None:
    page.type("[data-testid=stChatInputTextArea]", text)
    page.click("[data-testid=stChatInputSubmitButton]")


def test_answers_side_by_side_are_stopped_kept_and_call_nobody(liar: str, image: Path, tmp_path: Path) -> None:
    messages = "document.querySelectorAll('[data-testid=stChatMessage]')"
    shots = Path(os.environ.get("MMLLM_SCREENSHOT", tmp_path / "chat.png"))
    with streamlit(liar, tmp_path / "streamlit.log") as url, tab(url, tmp_path / "profile") as page:
        page.wait("document.body.innerText.includes('Attach an image')", 120)
        page.click(".st-key-compare input")
        page.wait("document.body.innerText.includes('Second model')")
        page.attach("[data-testid=stChatInput] input[type=file]", image)
        page.wait("document.querySelector('[data-testid=stChatInput]').innerText.includes('shapes.png')")
        ask(page, "Say it slowly")
        page.wait(f"{messages}.length === 2 && {messages}[1].innerText.split('red square').length >= 3")
        press(page, "Stop")  # both columns
        page.wait(f"{messages}[1].innerText.split('stopped').length === 3")
        deadline = time.monotonic() + 20
        while sorted(Liar.left) != ["one", "two"]:  # the servers know that nobody waits
            assert time.monotonic() < deadline, Liar.left
            time.sleep(0.1)

        press(page, "Edit")
        page.wait("document.querySelector('textarea[aria-label=Question]') !== null")
        page.evaluate("document.querySelector('textarea[aria-label=Question]').select()")
        page.type("textarea[aria-label=Question]", "Say it")
        press(page, "Ask anew")
        drawn = f"[...{messages}[1].querySelectorAll('img')].filter(one => one.alt.includes('2 marks'))"
        page.wait(f"!{messages}[0].innerText.includes('slowly') && !{messages}[1].innerText.includes('stopped')", 120)
        page.wait(f"{drawn}.length === 2 && {drawn}.every(one => one.naturalWidth > 0)", 120)
        said = page.evaluate(f"{messages}[1].innerText")
        assert "/bare" in said and said.count("tokens/s") == 2 and "1: The red square is" in said
        assert page.evaluate("document.querySelector('.stMain').innerText").count("Say it slowly") == 0
        ask(page, "odd")
        page.wait("document.querySelectorAll('[data-testid=stAlert]').length === 2")
        assert "chatcmpl" not in page.evaluate("document.body.innerText")

        page.wait("window.mmllmChat.saved.includes('too odd')")
        time.sleep(0.5)  # what is on its way to the disk would be given up
        page.reload()  # what was asked, with its files, and the fault
        page.wait(f"{messages}.length === 4 && {drawn}.length === 2", 120)
        page.wait("document.querySelectorAll('[data-testid=stAlert]').length === 2")
        delete = f"[...{messages}[2].querySelectorAll('button')].find(one => one.innerText.includes('Delete'))"
        page.wait(f"{messages}[2].innerText.includes('odd') && {delete} !== undefined")
        page.evaluate(f"{delete}.click()")
        page.wait(f"{messages}.length === 2 && {messages}[0].innerText.includes('Say it')")
        ask(page, "Say JSON")
        page.wait(f"{messages}.length === 4 && {messages}[3].querySelectorAll('details[open] summary').length === 6")
        page.wait(f"{messages}[3].innerText.includes('price: 2.5')")
        for media, width in (("dark", 390), ("light", 1280)):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page.call("Emulation.setDeviceMetricsOverride", **size)
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": media}])
            ground = "getComputedStyle(document.querySelector('.stApp')).backgroundColor.match(/\\d+/g)[0]"
            page.wait(f"({ground} < 60) === {'true' if media == 'dark' else 'false'}")
            page.wait("document.documentElement.scrollWidth <= window.innerWidth")
            overflow = f"[...{messages}].every(one => one.getBoundingClientRect().right <= window.innerWidth)"
            assert page.evaluate(overflow)
            page.screenshot(shots.with_name(f"page-{width}.png"))
        named = (
            "one.innerText || one.ariaLabel || one.title || one.labels?.length || one.ariaLabelledByElements?.length"
        )
        fields = "[...document.querySelectorAll('button, input, textarea, [role=slider]')]"
        nameless = f"{fields}.filter(one => one.checkVisibility() && !({named})).map(one => one.outerHTML)"
        assert page.evaluate(nameless) == []
        page.wait("document.querySelector('[data-testid=stStatusWidget]') === null")
        asks = "[...document.querySelectorAll('[data-testid=stChatMessage] *')].filter(one => one.matches('a, script')"
        asks = f"{asks} || one.src?.includes({json.dumps(liar)})).map(one => one.outerHTML)"
        assert page.evaluate(asks) == []
        assert page.errors == [] and "Traceback" not in (tmp_path / "streamlit.log").read_text()
    assert Liar.called == []
