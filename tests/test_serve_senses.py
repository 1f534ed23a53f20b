"""Video, sound, graphs, points and documents as parts of a message: what the model is shown, and what is refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generate import Encoded, Generator
from mmllm.types import Message, Sample
from serve.app import create_app
from serve.media import Limits
from tests.senses import DOCUMENT, FILES, AnyEncoder, assembled, every_sense, sound_file, video_file
from tests.serving import (
    BLUE,
    MODEL,
    RED,
    body,
    data_url,
    error_of,
    image_part,
    post,
    running,
    text_part,
    tiny_generator,
    user,
)

LIMITS = Limits(max_images=3, max_files=2, max_seconds=30, max_body=300_000, max_new_tokens=12)
VIDEO, SOUND, GRAPH = FILES["video"][1], FILES["audio"][1], FILES["graph"][1]


class Recording(Generator):
    """A generator that keeps the samples it is asked about."""

    def __init__(self, inner: Generator) -> None:
        super().__init__(inner.assembly)
        self.samples: list[Sample] = []

    def encode(self, sample: Sample) -> Encoded:
        """As ever."""
        self.samples.append(sample)
        return super().encode(sample)


@pytest.fixture(scope="module")
def generator() -> Recording:
    return Recording(every_sense())


@pytest.fixture(scope="module")
def http(generator: Recording) -> Iterator[TestClient]:
    with TestClient(create_app(generator, MODEL, LIMITS), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(generator: Recording) -> Iterator[openai.OpenAI]:
    with (
        running(create_app(generator, MODEL, LIMITS)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as one,
    ):
        yield one


def video_part(data: bytes = VIDEO, kind: str = "video/mp4") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(data, kind)}}


def sound_part(data: bytes = SOUND, form: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}


def file_part(name: str, data: bytes, kind: str = "application/octet-stream", **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": data_url(data, kind), **more}}


def said(generator: Generator, text: str, /, **media: tuple[Any, ...]) -> str:
    sample = Sample("x", (Message("user", text),), media)
    return "".join(piece.text for piece in generator.stream(sample, 6))


def answer(http: TestClient, *content: dict[str, Any]) -> str:
    status, got = post(http, body(list(content)))
    assert status == 200, got
    return got["choices"][0]["message"]["content"]


def shown(generator: Recording, http: TestClient, *content: dict[str, Any]) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """Text and media of the sample that a message becomes."""
    answer(http, *content)
    sample = generator.samples[-1]
    return sample.messages[-1].text, dict(sample.media)


# ---- what the model is shown


def test_the_official_client_sends_sound_and_files(client: openai.OpenAI, generator: Recording) -> None:
    sent: Any = [user([sound_part(), file_part("a.json", GRAPH, "application/json"), text_part("What?")])]
    asked: Any = {"model": MODEL, "messages": sent, "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    expected = said(generator, "<audio>\n<graph>\nWhat?", audio=(SOUND,), graph=(GRAPH,))
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.usage.completion_tokens <= 6
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_a_video_streams_and_counts_its_places(http: TestClient, generator: Recording) -> None:
    plain = post(http, body([text_part("What?")]))[1]["usage"]["prompt_tokens"]
    status, got = post(http, body([video_part(), text_part("What?")]))
    assert status == 200 and got["choices"][0]["message"]["content"] == said(
        generator, "<video>\nWhat?", video=(VIDEO,)
    )
    assert got["usage"]["prompt_tokens"] > plain + 2
    streamed = http.post("/v1/chat/completions", json=body([video_part(), text_part("What?")], stream=True))
    assert streamed.status_code == 200 and streamed.text.endswith("data: [DONE]\n\n")


def test_each_sense_reaches_its_encoder_as_bytes(http: TestClient, generator: Recording) -> None:
    for modality, (name, data) in FILES.items():
        key = "text" if modality == "document" else modality
        assert shown(generator, http, file_part(name, data), text_part("?")) == (f"<{key}>\n?", {key: (data,)})
    bare = {"type": "video_url", "video_url": data_url(VIDEO, "video/webm")}
    assert shown(generator, http, bare) == ("<video>", {"video": (VIDEO,)})


def test_senses_interleaved_keep_order_and_place(http: TestClient, generator: Recording) -> None:
    clips = (video_file(20), VIDEO)
    content = [
        text_part("First"), video_part(clips[0]), image_part(RED), text_part("then"), sound_part(),
        video_part(clips[1]), image_part(BLUE), file_part("a.txt", DOCUMENT), text_part("?"),
    ]  # fmt: skip
    text, media = shown(generator, http, *content)
    assert text == "First\n<video>\n<image>\nthen\n<audio>\n<video>\n<image>\n<text>\n?"
    images = media.pop("image")
    assert media == {"video": clips, "audio": (SOUND,), "text": (DOCUMENT,)}
    assert [image.getpixel((0, 0)) for image in images] == [(255, 0, 0), (0, 0, 255)]
    assert answer(http, *content) == said(generator, text, image=images, **media)


def test_media_in_earlier_turns(http: TestClient, generator: Recording) -> None:
    turns = [user([sound_part(), text_part("What?")]), {"role": "assistant", "content": "A."}, user([video_part()])]
    status, got = post(http, {**body(), "messages": turns})
    messages = (Message("user", "<audio>\nWhat?"), Message("assistant", "A."), Message("user", "<video>"))
    sample = Sample("x", messages, {"audio": (SOUND,), "video": (VIDEO,)})
    assert status == 200
    assert got["choices"][0]["message"]["content"] == "".join(piece.text for piece in generator.stream(sample, 6))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio_url", "audio_url": {"url": data_url(SOUND, "audio/x-wav")}},
        file_part("tone.wav", SOUND),
        file_part("", SOUND, "audio/wav"),
        file_part("tone.WAV", SOUND, "audio/wav"),
        file_part("tone.bin", SOUND, modality="audio"),
    ],
)
def test_forms_of_a_sound_are_one(http: TestClient, generator: Recording, part: dict[str, Any]) -> None:
    assert shown(generator, http, part, text_part("?")) == ("<audio>\n?", {"audio": (SOUND,)})


def test_flac_ogg_and_other_containers_pass(http: TestClient) -> None:
    for form in ("FLAC", "OGG", "MP3"):
        assert answer(http, sound_part(sound_file(form, rate=16000), form.lower()), text_part("?"))
    for form in ("mov", "matroska", "avi", "mpegts"):
        assert answer(http, video_part(video_file(form=form)), text_part("?"))


def test_a_file_may_be_an_image(http: TestClient, generator: Recording) -> None:
    text, media = shown(generator, http, file_part("a.png", base64.b64decode(RED.partition(",")[2])))
    assert text == "<image>" and media["image"][0].getpixel((0, 0)) == (255, 0, 0)


def test_a_part_goes_to_the_first_encoder_of_its_sense() -> None:
    first, second = AnyEncoder("video", 1), AnyEncoder("video", 2)
    generator = assembled(clip=first, other=second)
    with TestClient(create_app(generator, MODEL, LIMITS)) as http:
        assert answer(http, video_part(), text_part("?")) == said(generator, "<clip>\n?", clip=(VIDEO,))
    assert first.read_count > 0 and second.read_count == 0


def test_the_card_of_the_model_says_what_it_takes(http: TestClient) -> None:
    (card,) = http.get("/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image", "video", "audio", "graph", "points", "document"]
    assert card["output_modalities"] == ["text"] and card["file_types"]["graph"] == ["json"]
    assert "mp4" in card["file_types"]["video"] and "wav" in card["file_types"]["audio"]
    with TestClient(create_app(tiny_generator(), MODEL, LIMITS)) as other:
        (card,) = other.get("/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image"] and list(card["file_types"]) == ["image"]


# ---- what is refused


def test_a_sense_that_the_model_lacks_is_one_sentence() -> None:
    with TestClient(create_app(tiny_generator(), MODEL, LIMITS), raise_server_exceptions=False) as http:
        for part, code, words in (
            (video_part(), "no_video", "takes no videos"),
            (sound_part(), "no_audio", "takes no sounds"),
            (file_part("a.json", GRAPH), "no_graph", "takes no graphs"),
            (file_part("a.ply", b"ply"), "no_points", "takes no point clouds"),
            (file_part("a.txt", DOCUMENT), "no_document", "takes no documents"),
        ):
            error = error_of(http, body([image_part(), part]))
            assert error["code"] == code and words in error["message"] and "text and images" in error["message"]
            assert post(http, body([image_part()]))[0] == 200
    with TestClient(create_app(assembled(clip=AnyEncoder("video")), MODEL, LIMITS)) as http:
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
    assert answer(http, video_part(), text_part("?"))


def test_the_part_at_fault_is_named_by_its_number(http: TestClient) -> None:
    error = error_of(http, body([video_part(), image_part(), video_part(VIDEO + b"BROKEN")]))
    assert error["message"] == "Video 2: the file is broken inside." and error["param"] == "messages"
    error = error_of(http, body([sound_part(), sound_part(b"RIFF1234WAV")]))
    assert error["message"].startswith("Sound 2 is not")


def test_counts_and_lengths_are_limited_before_anything_is_read(http: TestClient, generator: Recording) -> None:
    encoder = generator.assembly.encoders["video"]
    assert isinstance(encoder, AnyEncoder)
    before = encoder.read_count
    error = error_of(http, body([video_part()] * 3))
    assert "3 videos were sent" in error["message"] and "at most 2 per request" in error["message"]
    assert "at most 30 s" in error_of(http, body([video_part(VIDEO + bytes(40_000))]))["message"]
    assert encoder.read_count == before
    assert error_of(http, body([video_part(VIDEO + bytes(300_000))]), 413)["code"] == "request_too_large"
    assert answer(http, *[video_part()] * 2, *[sound_part()] * 2)


def test_media_belong_to_users_and_their_marks_cannot_be_typed(http: TestClient) -> None:
    error = error_of(http, {**body(), "messages": [{"role": "system", "content": [video_part()]}, user("?")]})
    assert "only user messages hold videos" in error["message"]
    for text in ("What is <video>?", "<text>"):
        assert error_of(http, body([video_part(), text_part(text)]))["code"] == "placeholder_in_text"


def test_requests_that_are_being_read_count_as_waiting() -> None:
    class Slow(AnyEncoder):
        def read(self, media: Any) -> Any:
            started.release()
            assert go.wait(20)
            return super().read(media)

    go, started = threading.Event(), threading.Semaphore(0)
    generator = assembled(video=Slow("video"))
    with TestClient(create_app(generator, MODEL, Limits(max_waiting=1)), raise_server_exceptions=False) as http:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(http, body([video_part()]))[0])) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            assert started.acquire(timeout=20)
        assert error_of(http, body([video_part()]), 429)["code"] == "queue_full"
        assert http.get("/health").status_code == 200
        go.set()
        for thread in threads:
            thread.join(20)
        assert statuses == [200, 200]
        assert post(http, body())[0] == 200
