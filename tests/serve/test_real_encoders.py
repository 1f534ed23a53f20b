"""The server over the real encoders of every sense, tiny: real files in, answers out, damaged ones refused."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.serving.media import Limits
from mmllm.testing.tiny.encoders import TINY
from mmllm.types import Message, Sample
from tests.support.senses import FILES, assembled, sound_file, video_file
from tests.support.serving import (
    body,
    error_of,
    file_part,
    image_part,
    picture,
    post,
    sound_part,
    text_part,
    video_part,
)

TYPES = {
    "image": "hf_vision",
    "video": "frames",
    "audio": "hf_audio",
    "graph": "text_graph",
    "points": "points",
    "document": "document",
}
DATA = os.environ.get("MMLLM_TEST_DATA")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return assembled(**{key: TINY[name].make() for key, name in TYPES.items()})


@pytest.fixture(scope="module")
def limits() -> Limits:
    return Limits(max_seconds=60, max_waiting=20, max_new_tokens=4)


def test_all_senses_in_one_message(http: TestClient, generator: Generator) -> None:
    video, sound = video_part(FILES["video"][1]), sound_part(FILES["audio"][1])
    others = [file_part(*FILES[modality]) for modality in ("graph", "points", "document")]
    status, answer = post(http, body([text_part("See"), video, image_part(), sound, *others, text_part("What?")]))
    assert status == 200, answer
    media = {modality: (data,) for modality, (_, data) in FILES.items()} | {"image": (picture("red"),)}
    text = "See\n<video>\n<image>\n<audio>\n<graph>\n<points>\n<document>\nWhat?"
    pieces = list(generator.stream(Sample("x", (Message("user", text),), media), 6))
    assert answer["choices"][0]["message"]["content"] == "".join(piece.text for piece in pieces)
    assert answer["usage"]["prompt_tokens"] == pieces[-1].prompt_tokens > 3 * 16 + 16


@pytest.mark.parametrize("modality", sorted(FILES))
def test_damaged_files_are_refused_or_answered_and_the_server_goes_on(http: TestClient, modality: str) -> None:
    name, whole = FILES[modality] if modality != "audio" else ("tone.flac", sound_file("FLAC"))
    dice = random.Random(modality)
    refused = 0
    for number in range(12):
        damaged = bytearray(whole[: dice.randrange(len(whole))] if number % 2 else whole)
        for _ in range(6 if damaged and number else 0):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        status, answer = post(http, body([file_part(name, bytes(damaged)), text_part("?")], max_tokens=1))
        if status != 200:
            assert status == 400 and answer["error"]["code"] == f"invalid_{modality}", answer
            assert len(answer["error"]["message"]) < 600 and "/tmp" not in answer["error"]["message"]
            refused += 1
    assert refused or modality == "document"
    assert post(http, body([file_part(name, whole), text_part("?")], max_tokens=1))[0] == 200


def test_limits_of_the_server_and_of_the_encoder_are_said(http: TestClient) -> None:
    long = video_file(300)
    assert "lasts 75 s" in error_of(http, body([file_part("a.mp4", long)]))["message"]
    assert "lasts 70 s" in error_of(http, body([file_part("a.wav", sound_file(seconds=70))]))["message"]
    error = error_of(http, body([file_part("a.txt", b"tea 3 " * 200)]))
    assert error["code"] == "invalid_document" and error["message"].startswith(
        "Document 1: the document has 400 tokens"
    )


def test_videos_of_several_clients_at_once(http: TestClient) -> None:
    clips = [video_file(count) for count in (1, 2, 3, 5, 8, 12)]
    requests = [body([file_part("a.mp4", clip), text_part("?")]) for clip in clips]
    alone = [post(http, request)[1]["choices"][0]["message"]["content"] for request in requests]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda request: post(http, request), requests))
    assert [status for status, _ in together] == [200] * 6
    assert [answer["choices"][0]["message"]["content"] for _, answer in together] == alone


@pytest.mark.skipif(DATA is None, reason="MMLLM_TEST_DATA is not set")
def test_real_clips_and_their_previews(http: TestClient) -> None:
    assert DATA is not None
    answered = []
    for file in sorted(Path(DATA, "video").iterdir()):
        if file.suffix not in (".mp4", ".mkv", ".mov", ".avi"):
            continue
        part = file_part(file.name, file.read_bytes())
        status, answer = post(http, body([part, text_part("?")], max_tokens=1))
        shown = http.post("/preview", json={"part": part})
        assert status in (200, 400) and shown.status_code in (200, status), (file.name, answer)
        answered += [file.name] if status == 200 else []
    assert len(answered) >= 14 and "corrupted.mp4" not in answered
