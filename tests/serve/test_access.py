"""Who may ask: names of the server, web pages, keys and their limits."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from fastapi.testclient import TestClient

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.serving.access import Access, Meter, host_name, is_local
from mmllm.serving.app import check_address, create_app
from mmllm.serving.keys import Key, KeyFile, add_key, read_keys
from mmllm.serving.schema import ApiError
from mmllm.types import Message, Sample
from tests.support.serving import LIMITS, MODEL, body, file_bytes, local, picture, running, user

EVERY = {"messages": [user("Hi")], "max_tokens": 1}


def code_of(answer: httpx.Response, status: int) -> str:
    """The code of an answer that is an error in the envelope, with an id."""
    assert answer.status_code == status and answer.headers["x-request-id"], answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.json()["error"]["code"]


# ---- names


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost:80", "[::1]:8000", "api", "api:8000", "127.1.2.3"]
)
def test_it_answers_under_its_own_names(named: TestClient, host: str) -> None:
    assert named.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.1"]
)
def test_a_page_whose_name_was_pointed_at_it_reads_nothing(named: TestClient, host: str) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/health")):
        assert code_of(named.request(method, path, headers={"host": host}), 421) == "unknown_host"


@pytest.fixture(scope="module")
def named(generator: Generator) -> Iterator[TestClient]:
    with local(create_app(generator, MODEL, LIMITS, Access(frozenset({"api"})))) as client:
        yield client


def test_names_of_headers() -> None:
    assert [host_name(host) for host in ("A.b:1", "[::1]:80", "[FE80::1]", "x")] == ["a.b", "::1", "fe80::1", "x"]


def test_scripts_of_web_pages_are_let_in_by_name_alone(generator: Generator, named: TestClient) -> None:
    asks = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in named.options("/v1/chat/completions", headers=asks).headers
    with local(create_app(generator, MODEL, LIMITS, Access(origins=("https://chat.example.org",)))) as http:
        allowed = http.options("/v1/chat/completions", headers=asks)
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example.org"
        other = http.options("/v1/chat/completions", headers={**asks, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


# ---- addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "chat.example.org"])
def test_strangers_reach_it_with_keys_or_when_told_so(host: str, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"--keys FILE .*--open"):
        check_address(host, Access())
    check_address(host, Access(open=True))
    add_key(tmp_path / "keys.yaml", "alice")
    check_address(host, Access(keys=KeyFile(tmp_path / "keys.yaml")))


def test_the_loopback_needs_neither() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_address(host, Access())
    assert is_local("/run/mmllm.sock") and not is_local("0.0.0.0")


def test_behind_another_asgi_server_connections_from_outside_are_refused(generator: Generator) -> None:
    for access, status in ((Access(frozenset({"*"})), 403), (Access(frozenset({"*"}), open=True), 200)):
        app = create_app(generator, MODEL, LIMITS, access)
        with TestClient(app, base_url="http://10.1.2.3:8000") as http:
            answer = http.get("/v1/models")
            assert answer.status_code == status
            assert http.get("/health").status_code == 200


# ---- keys


@dataclass
class Kept:
    """A server with a key file and what its users hold."""

    url: str
    path: Path
    alice: str
    bob: str

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)


def test_numbers_are_for_keys_that_may_read_them(kept: Kept) -> None:
    prometheus = add_key(kept.path, "prometheus", models=[], metrics=True)
    for token, status in ((kept.alice, 403), (prometheus, 200), ("wrong", 401)):
        answer = httpx.get(f"{kept.url}/metrics", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status
    assert httpx.get(f"{kept.url}/ready").json() == {"status": "ready"}
    assert list(kept.client(prometheus).models.list()) == []


@pytest.fixture(scope="module")
def kept(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    alice, bob = add_key(path, "alice"), add_key(path, "bob", models=["another"])
    with running(create_app(generator, MODEL, LIMITS, Access(keys=KeyFile(path)))) as url:
        yield Kept(url, path, alice, bob)


def test_without_a_key_there_is_nothing(kept: Kept) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": f"Basic {kept.alice}"}):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/preview"),
                             ("GET", "/openapi.json"), ("GET", "/v1/nothing")):  # fmt: skip
            answer = httpx.request(method, kept.url + path, headers=headers)
            assert code_of(answer, 401) == "invalid_api_key" and answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        kept.client(kept.alice[:-1]).models.list()
    assert httpx.get(f"{kept.url}/health").status_code == 200


def test_a_key_sees_its_own_models(kept: Kept) -> None:
    assert [one.id for one in kept.client(kept.alice).models.list()] == [MODEL]
    assert kept.client(kept.alice).chat.completions.create(model=MODEL, **EVERY).choices
    assert list(kept.client(kept.bob).models.list()) == []


def test_a_model_one_may_not_use_looks_like_one_that_does_not_exist(kept: Kept) -> None:
    said = []
    for model in (MODEL, "n" * len(MODEL)):
        answers = []
        for ask in (
            lambda client, model: client.chat.completions.create(model=model, **EVERY),
            lambda client, model: client.models.retrieve(model),
        ):
            with pytest.raises(openai.NotFoundError) as missing:
                ask(kept.client(kept.bob), model)
            answers.append(str(missing.value).replace(model, "?"))
        said.append(answers)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/decisions", {"input": "Hi", "questions": [{"type": "predicate", "instructions": "Is it?"}]}),
        ("/tokenize", {"prompt": "Hi"}),
    ],
)
def test_every_endpoint_hides_it(kept: Kept, path: str, more: dict[str, Any]) -> None:
    said = []
    for model in (MODEL, "n" * len(MODEL)):
        headers = {"authorization": f"Bearer {kept.bob}"}
        answer = httpx.post(kept.url + path, json={"model": model, **more}, headers=headers)
        assert code_of(answer, 404) == "model_not_found"
        said.append(answer.json()["error"]["message"].replace(model, "?"))
        assert code_of(httpx.post(kept.url + path, json={"model": model, **more}), 401) == "invalid_api_key"
    assert said[0] == said[1]


def test_keys_come_and_go_without_a_restart(kept: Kept) -> None:
    carol = add_key(kept.path, "carol")
    assert list(kept.client(carol).models.list())
    entries = yaml.safe_load(kept.path.read_text())
    del entries["carol"]
    kept.path.write_text(yaml.safe_dump(entries))
    with pytest.raises(openai.AuthenticationError):
        kept.client(carol).models.list()
    assert list(kept.client(kept.alice).models.list())


def test_a_key_file_in_the_middle_of_being_written_locks_nobody_out(kept: Kept) -> None:
    whole = kept.path.read_text()
    try:
        kept.path.write_text(whole[:60])
        assert list(kept.client(kept.alice).models.list())
    finally:
        kept.path.write_text(whole)


def test_hashes_are_compared_in_constant_time_and_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    tokens = [add_key(path, f"user{number}") for number in range(3)]
    keys, compared = KeyFile(path), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    for token, name in ((tokens[0], "user0"), (tokens[2], "user2"), ("wrong", None)):
        compared.clear()
        found = keys.find(token)
        assert (found and found[0]) == name and len(compared) == 3


def test_the_file_holds_hashes_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    token = add_key(path, "alice", ["demo"], 2, 60)
    entry = {"sha256": hashlib.sha256(token.encode()).hexdigest(), "models": ["demo"], "at_once": 2, "per_minute": 60}
    assert yaml.safe_load(path.read_text()) == {"alice": entry} and token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("alice: {sha256: abc}", "alice.sha256"),
        (f"alice: {{sha256: {'a' * 64}, model: x}}", "alice.model"),
        (f"alice: {{sha256: {'a' * 64}, at_once: 0}}", "alice.at_once"),
        (f"alice: {{sha256: {'a' * 64}}}\nalice: {{sha256: {'b' * 64}}}", "'alice' stands twice"),
        ("[", "is not YAML"),
    ],
)
def test_a_wrong_key_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(MmllmError, match=words):
        KeyFile(tmp_path / "keys.yaml")


def test_the_command_prints_a_key_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    assert main(["keys", "add", "alice", "--keys", str(path), "--models", "demo", "--per-minute", "60"]) == 0
    token = capsys.readouterr().out.strip()
    found = KeyFile(path).find(token)
    assert found is not None and found[0] == "alice" and found[1].sees("demo") and not found[1].sees("other")
    assert main(["keys", "add", "alice", "--keys", str(path)]) == 2 and "another name" in capsys.readouterr().err
    assert (
        main(["keys", "add", "bob", "--keys", str(path), "--at-once", "0"]) == 2
        and "at_once" in capsys.readouterr().err
    )


def test_the_command_lists_keys_and_takes_them_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    alice, bob = add_key(path, "alice", ["demo"], 2, 60), add_key(path, "bob", metrics=True)
    served = KeyFile(path)
    assert main(["keys", "list", "--keys", str(path)]) == 0
    assert capsys.readouterr().out == "alice: demo; 2 at once; 60 a minute\nbob: all models; metrics\n"
    assert main(["keys", "remove", "alice", "--keys", str(path)]) == 0
    assert served.find(alice) is None and served.find(bob) == ("bob", read_keys(path)["bob"])
    assert main(["keys", "remove", "alice", "--keys", str(path)]) == 2 and "bob" in capsys.readouterr().err
    assert main(["keys", "remove", "bob", "--keys", str(path)]) == 0 and read_keys(path) == {}
    # nobody is let in because nobody is left
    assert served.find(bob) is None and path.stat().st_mode & 0o777 == 0o600


# ---- limits of a key


def test_a_key_asks_so_often_within_a_minute() -> None:
    meter, key = Meter(), Key(sha256="0" * 64, per_minute=2)
    for now in (0.0, 20.0):
        meter.take(key, now)
    with pytest.raises(ApiError, match="2 times within a minute") as full:
        meter.take(key, 30.5)
    assert full.value.status_code == 429 and full.value.headers == {"Retry-After": "30"}
    meter.take(key, 60.5)


def test_a_key_has_so_many_requests_open(generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    one, other = add_key(path, "one", at_once=1), add_key(path, "other")
    begun, go, encode = threading.Event(), threading.Event(), generator.encode

    def slow(sample: Any, tenant: str = "") -> Any:
        begun.set()
        assert go.wait(20)
        return encode(sample)

    with local(create_app(generator, MODEL, LIMITS, Access(keys=KeyFile(path)))) as http:

        def ask(key: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return http.post("/v1/chat/completions", json=body(max_tokens=1), headers=headers)

        monkeypatch.setattr(generator, "encode", slow)
        thread = threading.Thread(target=ask, args=(one,))
        thread.start()
        assert begun.wait(20)
        assert code_of(ask(one), 429) == "rate_limit_exceeded"
        go.set()
        assert ask(other).status_code == 200
        thread.join(20)
        deadline = time.monotonic() + 5
        while ask(one).status_code == 429:  # the place is given back after the answer was sent
            assert time.monotonic() < deadline


def test_what_was_read_for_one_key_is_not_used_for_another(kept: Kept) -> None:
    dora = add_key(kept.path, "dora")
    question = {"messages": [user("The same long question, asked by two who share no key, word for word.")]}

    def cached(key: str) -> int:
        answer = kept.client(key).chat.completions.create(model=MODEL, max_tokens=1, **question)
        return answer.usage.prompt_tokens_details.cached_tokens  # type: ignore[union-attr, return-value]

    assert [cached(kept.alice), cached(dora)] == [0, 0]
    assert cached(kept.alice) > 8 and cached(dora) > 8


def test_a_picture_of_one_key_is_read_anew_for_another(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    entry = generator.inputs["image"]
    monkeypatch.setattr(entry, "read", lambda media, plain=entry.read: read.append(1) or plain(media))
    sample = Sample("x", (Message("user", "<image>"),), {"image": (file_bytes(picture("green", (21, 21))),)})
    for tenant, times in (("alice", 1), ("alice", 1), ("bob", 2), ("alice", 2)):
        generator.encode(sample, tenant)
        assert len(read) == times
