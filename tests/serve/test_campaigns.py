"""What the measurements of the server send: good bodies are answered, wrong ones get the status they are said to."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from benchmarks.serve.hostile_bodies import GOOD, hostile_bodies
from benchmarks.serve.hostile_media import POISON, hostile_media
from benchmarks.serve.server_process import NAME
from mmllm.serving.media import Limits


@pytest.fixture(scope="module")
def limits() -> Limits:
    """Those of a recipe that says nothing."""
    return Limits()


@pytest.mark.parametrize("path", GOOD)
def test_what_is_changed_was_good(http: TestClient, path: str) -> None:
    answer = http.post(path, json={**GOOD[path], **({"model": "tiny"} if "model" in GOOD[path] else {})})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_for_what_it_is(http: TestClient, name: str) -> None:
    sent, status = POISON[name]
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/chat/completions", content=sent.replace(NAME.encode(), b"tiny"), headers=headers)
    assert answer.status_code == status, answer.text
    assert "model: Field required" not in answer.text


def test_the_same_seed_makes_the_same_and_as_many_as_are_said() -> None:
    one, two = ([data for *_, data in hostile_bodies(30, seed=1)] for _ in range(2))
    assert one == two and len(one) == 30
    media = hostile_media()
    assert len(media) == len(dict(media)) == 100 and media == hostile_media()
