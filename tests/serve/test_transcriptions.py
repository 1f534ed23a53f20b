"""Sounds written down: by the official client, whole and as a stream; what is refused."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from tests.support.senses import SENSES_LIMITS, AnyEncoder, assembled, sound_file
from tests.support.serving import MODEL, body, local, post, sound_part, text_part, tiny_generator

SOUND = sound_file()


@pytest.fixture(scope="module")
def generator() -> Generator:
    return assembled(audio=AnyEncoder("audio", 1))


@pytest.fixture(scope="module")
def limits() -> Limits:
    return SENSES_LIMITS


def chatted(http: TestClient, question: str) -> str:
    status, answer = post(http, {**body([sound_part(SOUND), text_part(question)]), "max_tokens": None})
    assert status == 200
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_a_sound_is_written_down(client: openai.OpenAI, http: TestClient) -> None:
    asked: Any = {"model": MODEL, "file": ("a.wav", SOUND)}
    found = client.audio.transcriptions.create(**asked)
    assert found.text == chatted(http, "Transcribe the speech.")
    assert client.audio.transcriptions.create(**asked, response_format="text") == found.text
    assert client.audio.transcriptions.create(**asked, language="en").text == chatted(
        http, "Transcribe the speech. Language: en."
    )
    assert client.audio.transcriptions.create(**asked, prompt="Which digit?").text == chatted(http, "Which digit?")
    events = list(client.audio.transcriptions.create(**asked, stream=True))
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == found.text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "file", "param", "words"),
    [
        ({"response_format": "srt"}, SOUND, "response_format", "json"),
        ({"timestamp_granularities[]": "word"}, SOUND, "timestamp_granularities[]", "not supported"),
        ({"temperature": "3"}, SOUND, "temperature", "2"),
        ({"language": "x" * 50}, SOUND, "language", "pattern"),
        ({}, b"RIFF no sound", "messages", "can be read"),
        ({}, None, "file", "no sound"),
        ({"model": "other"}, SOUND, "model", "does not exist"),
    ],
)
def test_what_is_refused(http: TestClient, fields: dict[str, str], file: bytes | None, param: str, words: str) -> None:
    files = {"other": b"x"} if file is None else {"file": ("a.wav", file)}
    answer = http.post("/v1/audio/transcriptions", data={"model": MODEL, **fields}, files=files)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404) and error["param"] == param and words in error["message"], answer.text


def test_a_body_that_is_no_form(http: TestClient) -> None:
    multipart = "multipart/form-data"
    for content, kind in ((b"{}", "application/json"), (b"x", multipart), (b"x", f"{multipart}; boundary=y")):
        answer = http.post("/v1/audio/transcriptions", content=content, headers={"content-type": kind})
        assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_model_that_does_not_hear_says_so() -> None:
    with local(create_app(tiny_generator(), MODEL, SENSES_LIMITS)) as http:
        answer = http.post("/v1/audio/transcriptions", data={"model": MODEL}, files={"file": ("a.wav", SOUND)})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_audio"
