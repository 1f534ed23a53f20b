"""Tasks in answers: tags are read whatever is said, tools run, and no answer reaches an address that is not listed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.serving.app import create_app
from mmllm.serving.tasks.http_tool import ToolError, ask, check_url
from mmllm.serving.tasks.parsing import Place, Task, read_tags
from mmllm.serving.tasks.tools import MOST_TASKS, ToolCall, Tools
from serve.tags import shown
from tests.support.serving import LIMITS, MODEL, RED, body, image_part, local, post, text_part

SAID = "<task:segment>the cup <box>0.1,0.2,0.4,0.9</box></task>"


def segment(call: ToolCall) -> Any:
    """A tool: says what it was given."""
    if call.text == "fail":
        raise ValueError("/secret/path")
    if call.text == "nothing":
        return float("nan")
    return {"of": call.text, "places": [list(place.numbers) for place in call.places], "images": list(call.images)}


def sleepy(call: ToolCall) -> Any:
    time.sleep(0.5)


# ---- reading


def test_tags_are_read_and_all_else_is_text() -> None:
    said = f"see {SAID} and <point>1, 2.5</point>, <task:draw>x</task> <box>1,2,3</box> "
    said += "<task:segment>open <box>1,2,3,4</box>"
    task, point, box = read_tags(said, ["segment"])
    assert isinstance(task, Task) and (task.name, task.text) == ("segment", "the cup")
    assert [place.numbers for place in task.places] == [(0.1, 0.2, 0.4, 0.9)]
    assert said[task.start : task.end] == SAID
    assert isinstance(point, Place) and (point.kind, point.numbers) == ("point", (1, 2.5))
    # a task that is never closed is text, its box stands for itself
    assert isinstance(box, Place) and said[box.start : box.end] == "<box>1,2,3,4</box>"


def test_no_text_raises_and_tags_never_overlap() -> None:
    rng = Random(0)
    pieces = [
        "<task:segment>", "<task:", "</task>", "<task:no>", "<box>", "</box>", "<box>1,2,3,4</box>",
        "<point>.5,1</point>", "<point>1,2</point>",
        "1e9,", "-", "9" * 40, "\x00", "é", "<", ">", " ", "a", "\ud800", "<box>-,-,-,-</box>",
    ]  # fmt: skip
    n_tasks = 0
    for _ in range(3000):
        said = "".join(rng.choices(pieces, k=rng.randrange(30)))
        at = 0
        for tag in sorted(read_tags(said, {"segment"}), key=lambda tag: tag.start):
            assert tag.start >= at and said[tag.start] == "<" and said[tag.end - 1] == ">"
            at = tag.end
            json.dumps(tag.body(), allow_nan=False)
            n_tasks += isinstance(tag, Task)
    assert n_tasks > 100
    began = time.process_time()
    for said in ("<task:segment>" * 20_000, "<box>" * 40_000, "<box>1,2,3,4" * 20_000, "<box>1,2,3,4</box>" * 10_000):
        read_tags(said, {"segment"})
    assert time.process_time() - began < 2


# ---- in the API


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    path = tmp_path_factory.mktemp("tools") / "tools.yaml"
    path.write_text(
        f"tools: {{segment: {{python: '{__name__}:segment', images: true}}, "
        f"sleepy: {{python: '{__name__}:sleepy', timeout: 0.1}}}}"
    )
    return Tools.read(path)


@pytest.fixture(scope="module")
def http(generator: Generator, tools: Tools) -> Iterator[TestClient]:
    with local(create_app(generator, MODEL, LIMITS, tools=tools)) as client:
        yield client


def saying(text: str, **more: Any) -> dict[str, Any]:
    """A request whose answer is a JSON text of exactly this."""
    form = {"type": "json_schema", "json_schema": {"schema": {"const": text}}}
    return body([image_part(), text_part("where?")], response_format=form, **{"max_tokens": 120, **more})


def test_an_answer_carries_what_its_tools_made(http: TestClient) -> None:
    said = f"{SAID} <task:segment>fail</task><task:segment>nothing</task><task:sleepy></task><point>3,4</point>"
    status, got = post(http, saying(said, max_tokens=200))
    message = got["choices"][0]["message"]
    assert status == 200 and json.loads(message["content"]) == said
    done, failed, nothing, late, point = message["tags"]
    assert done["result"] == {"of": "the cup", "places": [[0.1, 0.2, 0.4, 0.9]], "images": [RED]}
    assert (done["error"], message["content"][done["start"] : done["end"]]) == (None, SAID)
    for one, name in ((failed, "segment"), (nothing, "segment"), (late, "sleepy")):
        assert (one["result"], one["error"]) == (None, f"The tool {name} failed.")
    assert point == {"type": "point", "numbers": [3, 4], "start": point["start"], "end": point["end"]}


def test_a_stream_brings_them_at_its_end(http: TestClient) -> None:
    with http.stream("POST", "/v1/chat/completions", json=saying(SAID, stream=True)) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert json.loads("".join(one["delta"].get("content", "") for one in choices)) == SAID
    assert choices[-1]["delta"]["tags"][0]["result"]["of"] == "the cup"
    assert choices[-2]["finish_reason"] == "stop"


def test_a_model_that_repeats_itself_runs_so_many_tools(http: TestClient, tools: Tools) -> None:
    found = asyncio.run(tools.run("<task:segment>a</task>" * (MOST_TASKS + 2), []))
    assert [one["result"] is not None for one in found] == [True] * MOST_TASKS + [False] * 2


# ---- addresses


@contextlib.contextmanager
def answering(status: int, content: bytes, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[Any]]]:
    """An address that answers so, and what it was sent."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            seen.append((self.headers["host"], json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_address_is_asked_and_a_wrong_answer_is_an_error() -> None:
    call = ToolCall("draw", "a cup", (Place("point", (1, 2), 0, 1),))
    with answering(200, b'{"ok": [1]}') as (host, seen):
        assert ask(check_url(f"http://{host}/draw", [host]), call.body(), 5) == {"ok": [1]}
    places: list[Any] = [{"type": "point", "numbers": [1, 2]}]
    assert seen == [(host, {"task": "draw", "text": "a cup", "places": places, "images": []})]
    with answering(200, b'"seen"') as (inner, seen):
        wrong = [
            (302, b"{}", {"location": f"http://{inner}/"}), (500, b"{}", {}), (200, b"<html>", {}),
            (200, b"1" * 9_000_000, {}), (200, b"{}", {"content-encoding": "gzip"}),
        ]  # fmt: skip
        for status, content, headers in wrong:
            with answering(status, content, headers) as (host, _), pytest.raises(ToolError):
                ask(check_url(f"http://{host}/", [host]), {}, 5)
        assert seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/", "http://other.example/", "http://tools.example:81/", "file:///etc/passwd",
        "gopher://tools.example/", "http://tools.example@evil.example/", "http://user@tools.example/",
        "//tools.example",
        "http://tools.example.evil.example/", "http://[::1]/", "http://2130706433/", "http://\ntools.example/",
    ],
)  # fmt: skip
def test_an_address_outside_of_the_list_is_refused(url: str) -> None:
    with pytest.raises(MmllmError):
        check_url(url, ["tools.example"])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::ffff:10.0.0.1", "fe80::1%eth0",
     "fd00::1", "64:ff9b::a00:1", "2002:a00:1::", "224.0.0.1"],
)  # fmt: skip
def test_a_listed_name_that_leads_inside_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(*args: Any, **more: Any) -> list[Any]:
        public, family = ("93.184.216.34", socket.AF_INET)
        return [(family, 1, 6, "", (public, 80)), (socket.AF_INET6, 1, 6, "", (address, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(httpx.Client, "send", lambda *args, **more: pytest.fail("a connection was made"))
    with pytest.raises(ToolError, match="not public"):
        ask(check_url("http://tools.example/", ["tools.example"]), {}, 1)


def test_a_name_is_looked_up_once_and_what_was_seen_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look-up could lead elsewhere."""
    asked, plain = [], socket.getaddrinfo

    def resolved(host: Any, *args: Any, **more: Any) -> Any:
        asked.append(host)
        return plain("127.0.0.1" if host == "tools.example" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr("mmllm.serving.tasks.http_tool._is_public", lambda address: True)
    with answering(200, b"1") as (host, seen):
        name = host.replace("127.0.0.1", "tools.example")
        assert ask(check_url(f"http://{name}/", [name]), {}, 5) == 1
    assert asked.count("tools.example") == 1 and seen == [(name, {})]


def test_what_a_page_shows_of_tags() -> None:
    picture = "data:image/png;base64,iVBORw=="
    result = {"mask": picture, "more": [picture, "https://evil.example/a.png"], "score": 0.5, "none": None}
    places = [{"type": "box", "numbers": [1, 2, 3, 4]}]
    task = {"type": "task", "task": "segment", "text": "cup", "places": places, "result": result, "error": None}
    failed = {**task, "result": None, "error": "The tool segment failed."}
    one, two, point = shown([task, failed, {"type": "point", "numbers": [1, 2]}])
    assert (one.title, one.places, one.pictures) == ("segment: cup", ((1, 2, 3, 4),), (b"\x89PNG",) * 2)
    assert json.loads(one.text) == {"more": ["https://evil.example/a.png"], "score": 0.5, "none": None}
    assert (two.text, two.pictures) == ("The tool segment failed.", ())
    assert (point.title, point.places) == ("point", ((1, 2),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tools: {a: {python: 'nowhere_at_all:f'}}", "there is no nowhere_at_all:f"),
        ("tools: {a: {python: 'json:dumps', url: 'http://a'}}", "either python or url"),
        ("tools: {a: {url: 'http://a.example/'}}", "add it to let it be asked"),
        ("tools: {'a b': {python: 'json:dumps'}}", "tools"),
        ("[", "cannot be read"),
    ],
)
def test_a_file_of_tools_that_is_wrong_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tools.yaml").write_text(text)
    with pytest.raises(MmllmError, match=message):
        Tools.read(tmp_path / "tools.yaml")
