"""Several runs in one server: names, parents, keys of groups, and answers that are those of each run by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mmllm.errors import MmllmError
from mmllm.serving.access import Access
from mmllm.serving.app import load_app
from mmllm.serving.keys import KeyFile, add_key
from mmllm.sets.offers import WITHDRAWN, withdraw
from tests.support.serving import RED, image_part, local, text_part, user
from tests.support.sets import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run that is given, and a folder of two, of which one is a group's."""
    made = Runs(tmp_path_factory.mktemp("runs"))
    for seed, (name, group) in enumerate((("given", None), ("open", None), ("ward", "ward_a"))):
        made.write(name, seed, rank=2 + seed, group=group)
    (made.sets / "given").rename(made.folder / "given")
    return made


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A key of the group, one of another, and one that sees a single model."""
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    words: dict[str, Any] = {"member": {"groups": ["ward_a"]}, "stranger": {"groups": ["ward_b"]}}
    words["guest"] = {"models": ["given", "ward"]}
    return file, {name: add_key(file, name, **more) for name, more in words.items()}


@pytest.fixture(scope="module")
def http(runs: Runs, keys: tuple[Path, dict[str, str]]) -> Iterator[TestClient]:
    """The server of all of them, in this process."""
    access = Access(keys=KeyFile(keys[0]))
    _, app = load_app(runs.folder / "given", access=access, sets=runs.sets)
    with local(app, raise_server_exceptions=False) as client:
        yield client


def ask(http: TestClient, model: str, key: str | None = None, *parts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer."""
    content = [*parts, text_part("What is it?")]
    body = {"model": model, "messages": [user(content)], "max_tokens": 5}
    head = {} if key is None else {"Authorization": f"Bearer {key}"}
    answer = http.post("/v1/chat/completions", json=body, headers=head)
    return answer.status_code, answer.json()


def test_each_answer_is_the_one_of_its_run_served_alone(
    http: TestClient, runs: Runs, keys: tuple[Path, dict[str, str]]
) -> None:
    _, tokens = keys
    places = {"given": runs.folder / "given", "open": runs.sets / "open"}
    for name, run in places.items():
        with local(load_app(run)[1]) as single:
            for parts in ((), (image_part(RED),)):
                expected = ask(single, name, None, *parts)
                found = ask(http, name, tokens["member"], *parts)
                assert found[0] == expected[0] == 200 and found[1]["model"] == name
                assert found[1]["choices"] == expected[1]["choices"]


def test_models_have_their_parent_and_each_key_sees_its_own(
    http: TestClient, keys: tuple[Path, dict[str, str]]
) -> None:
    seen = {}
    for name, token in keys[1].items():
        cards = http.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).json()["data"]
        seen[name] = [card["id"] for card in cards]
        assert {card["parent"] for card in cards} == {"tiny-llama-0"}
        assert cards[0]["set"]["tensors"] == 60 and len(cards[0]["set"]["digest"]) == 64
    # a name in its list does not make a key one of a group
    assert seen == {"member": ["given", "open", "ward"], "stranger": ["given", "open"], "guest": ["given"]}


def test_a_forbidden_name_looks_like_one_that_does_not_exist(
    http: TestClient, keys: tuple[Path, dict[str, str]]
) -> None:
    for name in ("stranger", "guest"):
        answers = {}
        for model in ("ward", "draw"):
            status, body = ask(http, model, keys[1][name])
            assert status == 404
            answers[model] = str(body).replace(model, "NAME")
        assert answers["ward"] == answers["draw"]
    assert ask(http, "ward", keys[1]["member"])[0] == 200


def test_a_withdrawn_group_is_gone_within_a_second_or_two(
    http: TestClient, runs: Runs, keys: tuple[Path, dict[str, str]]
) -> None:
    assert ask(http, "ward", keys[1]["member"])[0] == 200
    try:
        withdraw(runs.sets, "ward_a")
        assert ask(http, "ward", keys[1]["member"])[0] == 404
        library = http.app.state.models.library  # type: ignore[attr-defined]
        deadline = time.monotonic() + 20
        while "ward" in [learned.name for learned in library.engine.sets]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        (runs.sets / WITHDRAWN).unlink()
    assert ask(http, "ward", keys[1]["member"])[0] == 200


def test_a_broken_set_is_503_and_the_others_answer(
    http: TestClient, runs: Runs, keys: tuple[Path, dict[str, str]]
) -> None:
    run = runs.write("broken", 7)
    for file in run.rglob("learned.safetensors"):
        file.write_bytes(b"")
    status, body = ask(http, "broken", keys[1]["member"])
    assert status == 503 and body["error"]["code"] == "model_unavailable"
    assert ask(http, "open", keys[1]["member"])[0] == 200
    for file in sorted(run.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    run.rmdir()


def test_runs_that_cannot_be_served_are_one_sentence(runs: Runs) -> None:
    with pytest.raises(MmllmError, match="is for its members alone: give --keys"):
        load_app(runs.sets / "ward")
    with pytest.raises(MmllmError, match="is for its members alone: give --keys"):
        load_app(runs.folder / "given", more=[runs.sets / "ward"])
    with pytest.raises(MmllmError, match="are both called given"):
        load_app(runs.folder / "given", more=[runs.folder / "given"])
    with pytest.raises(MmllmError, match=r"--sets .*nothing is no folder"):
        load_app(runs.folder / "given", sets=runs.folder / "nothing")
