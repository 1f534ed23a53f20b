"""What the server refuses of video, sound, graphs, points and documents, each in one sentence; then it goes on."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from tests.support.senses import (
    DOCUMENT,
    FILES,
    SENSES_LIMITS,
    AnyEncoder,
    AnyProcessor,
    assembled,
    every_sense,
    sound_file,
)
from tests.support.serving import (
    MODEL,
    answer,
    body,
    error_of,
    file_part,
    image_part,
    local,
    post,
    sound_part,
    text_part,
    tiny_generator,
    user,
    video_part,
)

VIDEO, SOUND, GRAPH = FILES["video"][1], FILES["audio"][1], FILES["graph"][1]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return every_sense()


@pytest.fixture(scope="module")
def limits() -> Limits:
    return SENSES_LIMITS


def test_a_sense_that_the_model_lacks_is_one_sentence() -> None:
    with local(create_app(tiny_generator(), MODEL, SENSES_LIMITS), raise_server_exceptions=False) as http:
        for part, code, words in (
            (video_part(VIDEO), "no_video", "takes no videos"),
            (sound_part(SOUND), "no_audio", "takes no sounds"),
            (file_part("a.json", GRAPH), "no_graph", "takes no graphs"),
            (file_part("a.ply", b"ply"), "no_points", "takes no point clouds"),
            (file_part("a.txt", DOCUMENT), "no_document", "takes no documents"),
        ):
            error = error_of(http, body([image_part(), part]))
            assert error["code"] == code and words in error["message"] and "text and images" in error["message"]
            assert post(http, body([image_part()]))[0] == 200
    with local(create_app(assembled(clip=AnyEncoder("video")), MODEL, SENSES_LIMITS)) as http:
        error = error_of(http, body([image_part()]))
        assert error["code"] == "no_images" and "it takes text and videos" in error["message"]


@pytest.mark.parametrize(
    ("part", "code", "words"),
    [
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, "invalid_video", "fetches no addresses"),
        ({"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}, "invalid_audio", "Sound 1 is not a data"),
        (video_part(VIDEO, "image/png"), "invalid_video", "malformed data URL"),
        (video_part(b"x" * 50), "invalid_video", "Video 1 is not a video that can be read; send a mp4"),
        (video_part(b"#EXTM3U\nfile:///etc/passwd\n"), "invalid_video", "not a video"),
        (video_part(b"ffconcat version 1.0\nfile /etc/passwd\n"), "invalid_video", "not a video"),
        (video_part(b""), "invalid_video", "Video 1 is empty"),
        (sound_part(b"MThd"), "invalid_audio", "Sound 1 is not a sound"),
        ({"type": "input_audio", "input_audio": {"data": "@@@", "format": "wav"}}, "invalid_audio", "not valid base64"),
        (video_part(VIDEO + bytes(40_000)), "invalid_video", "Video 1 lasts"),
        (sound_part(sound_file(seconds=40, rate=2000)), "invalid_audio", "Sound 1 lasts 40 s; at most 30 s"),
        (sound_part(b"RIFF1234WAVEfmt nonsense"), "invalid_audio", "Sound 1 is not a sound"),
        (sound_part(SOUND + b"BROKEN"), "invalid_audio", "1: the file is broken inside."),
        (file_part("a.json", GRAPH + b"BROKEN"), "invalid_graph", "Graph 1: the file is broken inside."),
        (file_part("a.npy", b"BROKEN"), "invalid_points", "Points 1: the file is broken inside."),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}, "invalid_request", "'wav'"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "invalid_request", "file_data"),
        (file_part("a.xyzzy", b"x"), "invalid_request", "known ending"),
        (file_part("a.json", VIDEO, "video/mp4"), "invalid_request", "disagree (graph, video)"),
        (file_part("a.json", b"x", modality="smell"), "invalid_request", "modality"),
        (file_part("a.json", b"x", "audio/wav", modality="graph"), "invalid_graph", "malformed data URL"),
    ],
)  # fmt: skip
def test_refusals(http: TestClient, part: dict[str, Any], code: str, words: str) -> None:
    error = error_of(http, body([part, text_part("?")]))
    assert error["code"] == code and words in error["message"], error
    assert "passwd" not in error["message"]
    assert answer(http, video_part(VIDEO), text_part("?"))


def test_the_part_at_fault_is_named_by_its_number(http: TestClient) -> None:
    error = error_of(http, body([video_part(VIDEO), image_part(), video_part(VIDEO + b"BROKEN")]))
    assert error["message"] == "Video 2: the file is broken inside." and error["param"] == "messages"
    error = error_of(http, body([sound_part(SOUND), sound_part(b"RIFF1234WAV")]))
    assert error["message"].startswith("Sound 2 is not")


def test_counts_and_lengths_are_limited_before_anything_is_read(http: TestClient, generator: Generator) -> None:
    encoder = generator.model.encoders["video"]
    assert isinstance(encoder, AnyEncoder)
    before = encoder.processor.read_count
    error = error_of(http, body([video_part(VIDEO)] * 3))
    assert "3 videos were sent" in error["message"] and "at most 2 per request" in error["message"]
    assert "at most 30 s" in error_of(http, body([video_part(VIDEO + bytes(40_000))]))["message"]
    assert encoder.processor.read_count == before
    assert error_of(http, body([video_part(VIDEO + bytes(300_000))]), 413)["code"] == "request_too_large"
    assert answer(http, *[video_part(VIDEO)] * 2, *[sound_part(SOUND)] * 2)


def test_media_belong_to_users_and_their_marks_cannot_be_typed(http: TestClient) -> None:
    error = error_of(http, {**body(), "messages": [{"role": "system", "content": [video_part(VIDEO)]}, user("?")]})
    assert "only user messages hold videos" in error["message"]
    for text in ("What is <video>?", "<text>"):
        assert error_of(http, body([video_part(VIDEO), text_part(text)]))["code"] == "placeholder_in_text"


def test_requests_that_are_being_read_count_as_waiting() -> None:
    class Slow(AnyProcessor):
        def read(self, media: Any) -> Any:
            started.release()
            assert go.wait(60)
            return super().read(media)

    go, started = threading.Event(), threading.Semaphore(0)
    slow = AnyEncoder("video")
    slow.processor = Slow("video")
    generator = Generator(assembled(video=slow).model, Sizes(rows=1))
    with local(create_app(generator, MODEL, Limits(max_waiting=1)), raise_server_exceptions=False) as http:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(http, body([video_part(VIDEO)]))[0])) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            assert started.acquire(timeout=60)
        assert error_of(http, body([video_part(VIDEO)]), 429)["code"] == "queue_full"
        assert http.get("/health").status_code == 200
        assert post(http, body())[0] == 200  # text alone waits for nobody's files
        while http.get("/health").json()["running"]:
            time.sleep(0.02)
        go.set()
        for thread in threads:
            thread.join(60)
        assert statuses == [200, 200]
        assert post(http, body())[0] == 200
