"""Video, sound, graphs, points and documents as parts of a message: what the model is shown, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from mmllm.generation.generator import Encoded, Generator
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from mmllm.types import Message, Sample
from tests.support.senses import (
    DOCUMENT,
    FILES,
    SENSES_LIMITS,
    AnyEncoder,
    assembled,
    every_sense,
    sound_file,
    video_file,
)
from tests.support.serving import (
    BLUE,
    MODEL,
    RED,
    answer,
    body,
    data_url,
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


class Recording(Generator):
    """A generator that keeps the samples it is asked about."""

    def __init__(self, inner: Generator) -> None:
        super().__init__(inner.model)
        self.samples: list[Sample] = []

    def encode(self, sample: Sample, tenant: str = "") -> Encoded:
        """As ever."""
        self.samples.append(sample)
        return super().encode(sample, tenant)


@pytest.fixture(scope="module")
def generator() -> Recording:
    return Recording(every_sense())


@pytest.fixture(scope="module")
def limits() -> Limits:
    return SENSES_LIMITS


def said(generator: Generator, text: str, /, **media: tuple[Any, ...]) -> str:
    sample = Sample("x", (Message("user", text),), media)
    return "".join(piece.text for piece in generator.stream(sample, 6))


def shown(generator: Recording, http: TestClient, *content: dict[str, Any]) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """Text and media of the sample that a message becomes."""
    answer(http, *content)
    sample = generator.samples[-1]
    return sample.messages[-1].text, dict(sample.media)


# ---- what the model is shown


def test_the_official_client_sends_sound_and_files(client: openai.OpenAI, generator: Recording) -> None:
    sent: Any = [user([sound_part(SOUND), file_part("a.json", GRAPH, "application/json"), text_part("What?")])]
    asked: Any = {"model": MODEL, "messages": sent, "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    expected = said(generator, "<audio>\n<graph>\nWhat?", audio=(SOUND,), graph=(GRAPH,))
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.usage.completion_tokens <= 6
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_a_video_streams_and_counts_its_places(http: TestClient, generator: Recording) -> None:
    plain = post(http, body([text_part("What?")]))[1]["usage"]["prompt_tokens"]
    status, got = post(http, body([video_part(VIDEO), text_part("What?")]))
    assert status == 200 and got["choices"][0]["message"]["content"] == said(
        generator, "<video>\nWhat?", video=(VIDEO,)
    )
    assert got["usage"]["prompt_tokens"] > plain + 2
    streamed = http.post("/v1/chat/completions", json=body([video_part(VIDEO), text_part("What?")], stream=True))
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
        text_part("First"), video_part(clips[0]), image_part(RED), text_part("then"), sound_part(SOUND),
        video_part(clips[1]), image_part(BLUE), file_part("a.txt", DOCUMENT), text_part("?"),
    ]  # fmt: skip
    text, media = shown(generator, http, *content)
    assert text == "First\n<video>\n<image>\nthen\n<audio>\n<video>\n<image>\n<text>\n?"
    images = media.pop("image")
    assert media == {"video": clips, "audio": (SOUND,), "text": (DOCUMENT,)}
    assert [image.getpixel((0, 0)) for image in images] == [(255, 0, 0), (0, 0, 255)]
    assert answer(http, *content) == said(generator, text, image=images, **media)


def test_media_in_earlier_turns(http: TestClient, generator: Recording) -> None:
    turns = [
        user([sound_part(SOUND), text_part("What?")]),
        {"role": "assistant", "content": "A."},
        user([video_part(VIDEO)]),
    ]
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
    with local(create_app(generator, MODEL, SENSES_LIMITS)) as http:
        assert answer(http, video_part(VIDEO), text_part("?")) == said(generator, "<clip>\n?", clip=(VIDEO,))
    assert first.processor.read_count > 0 and second.processor.read_count == 0


def test_the_card_of_the_model_says_what_it_takes(http: TestClient) -> None:
    (card,) = http.get("/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image", "video", "audio", "graph", "points", "document"]
    assert card["output_modalities"] == ["text"] and card["file_types"]["graph"] == ["json"]
    assert "mp4" in card["file_types"]["video"] and "wav" in card["file_types"]["audio"]
    with local(create_app(tiny_generator(), MODEL, SENSES_LIMITS)) as other:
        (card,) = other.get("/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image"] and list(card["file_types"]) == ["image"]
