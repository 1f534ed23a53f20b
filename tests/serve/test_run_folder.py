"""``mmllm serve`` and ``mmllm chat`` over a run folder that was really trained."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from rich.console import Console

from mmllm.errors import MmllmError
from mmllm.serving.app import serve
from mmllm.serving.terminal import chat
from tests.support.places import ROOT
from tests.support.serving import RED, image_part, picture, text_part, user
from tests.support.training import start, tiny_recipe, train_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages over tiny parts."""
    folder = tmp_path_factory.mktemp("served")
    (process,) = start(train_here, tiny_recipe(folder, steps=2), folder / "run")
    process.join(250)
    assert process.exitcode == 0
    return folder / "run"


def ask(command: list[str], announced: str, log: Path, **environment: str) -> None:
    """Start a server, put a question to it through the official client, end it by a signal; no traceback in its log."""
    with log.open("wb") as out:
        words = {**os.environ, **environment}
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=words, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 120
            while not (found := re.search(rf"{announced} (http://127\.0\.0\.1:\d+)", log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            with openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=5) as client:
                assert [model.id for model in client.models.list()] == ["tiny"]
                asked = [user([image_part(RED), text_part("What is on the sign?")])]
                answer = client.chat.completions.create(model="tiny", messages=asked, max_tokens=4)
            assert answer.usage is not None and answer.usage.completion_tokens <= 4
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()
    if "serve" in command:
        assert "no key is asked for: it answers on this machine alone" in log.read_text()


def test_serve_answers_the_official_client_and_ends_on_a_signal(run: Path, tmp_path: Path) -> None:
    ask(["mmllm", "serve", str(run), "--port", "0"], "tiny is at", tmp_path / "log")


def test_so_does_the_asgi_entry_under_uvicorn(run: Path, tmp_path: Path) -> None:
    command = ["uvicorn", "--factory", "serve.app:app", "--port", "0"]
    ask(command, "Uvicorn running on", tmp_path / "log", MMLLM_RUN=str(run))


def test_a_taken_port_is_one_sentence(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MmllmError, match=r"--port 99999 is no port"):
            serve(run, port=99999)
        with pytest.raises(MmllmError, match=rf"Cannot listen on 127\.0\.0\.1:{port} .*--port"):
            serve(run, port=port)


def test_chat_answers_lines_of_standard_input(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("red").save(tmp_path / "red.png")
    lines = f"/image {tmp_path / 'red.png'}\nWhat is on the sign?\n/quit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    out = io.StringIO()
    chat(run, console=Console(file=out, width=80))
    assert "model>" in out.getvalue() and len(out.getvalue().splitlines()) >= 15
