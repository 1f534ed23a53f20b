"""The one parser of OpenAI's parts: what each part means, in which order media come, and that all users agree."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from mmllm.datasets.chat import Chat
from mmllm.errors import MediaError, SampleError
from mmllm.messages.chat import to_sample
from mmllm.messages.openai import MediaPart, Turn, assemble, file_modality, read_part, read_turns
from mmllm.modalities import MODALITIES
from mmllm.serving.conversation import Inputs
from mmllm.serving.conversation import to_sample as requested
from mmllm.serving.media import Limits
from mmllm.serving.requests.chat import ChatRequest
from mmllm.types import Message, Sample
from tests.support.senses import FILES, AnyEncoder
from tests.support.serving import RED, data_url, image_part, sound_part

KEYS = {"image": "image", "audio": "audio", "points": "cloud"}
RED_BYTES = base64.b64decode(RED.partition(",")[2])


# ---- parts


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ({"type": "text", "text": "Hi"}, "Hi"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, MediaPart("image", "image_url", "a.png", 4)),
        ({"type": "image_url", "image_url": "a.png"}, MediaPart("image", "image_url", "a.png", 4)),
        ({"type": "graph", "graph": "c#17"}, MediaPart("graph", "graph", "c#17", 4)),
        ({"type": "image"}, MediaPart("image", "image", None, 4)),
        ({"type": "audio", "audio_url": "s.wav"}, MediaPart("audio", "audio", "s.wav", 4)),
        ({"type": "image", "image": None, "image_url": {"url": "a.png"}}, MediaPart("image", "image", "a.png", 4)),
        ({"type": "video", "video_url": "c.mp4"}, MediaPart("video", "video", "c.mp4", 4)),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}},
            MediaPart("image", "image", "data:image/png;base64,QQ==", 4),
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "a.txt"}},
            MediaPart("document", "document", "a.txt", 4),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
            MediaPart("audio", "input_audio", "data:audio/wav;base64,QQ==", 4),
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;base64,QQ==", "filename": "a.TXT"}},
            MediaPart("document", "file", "data:text/plain;base64,QQ==", 4),
        ),
        ({"type": "file", "file": {"file_data": "b/a.ply"}}, MediaPart("points", "file", "b/a.ply", 4)),
        (
            {"type": "file", "file": {"file_data": "data/image/a.json"}},
            MediaPart("graph", "file", "data/image/a.json", 4),
        ),
        (
            {"type": "file", "file": {"file_data": "a.json", "modality": "points"}},
            MediaPart("points", "file", "a.json", 4),
        ),
    ],
)
def test_what_a_part_means(part: dict[str, Any], read: str | MediaPart) -> None:
    assert read_part(part, 4) == read


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("Hi", "message 2 has a part of type None; known: text, input_audio, file, image_url, image, video_url, "),
        ({"type": "smell_url"}, "message 2 has a part of type 'smell_url'; known: text"),
        ({"type": "text_url", "text_url": "x"}, "message 2 has a part of type 'text_url'"),
        ({"type": "video_url", "video_url": {}}, "message 2 has a part of type video_url without its url"),
        ({"type": "input_audio"}, "message 2 has a part of type input_audio without its data"),
        ({"type": "file", "file": {"file_id": "f"}}, "message 2 has a part of type 'file' without its file_data"),
        ({"type": "file", "file": {"file_data": "a.bin"}}, "'file' of unknown modality: send modality (image, video"),
        ({"type": "file", "file": {"file_data": "a", "modality": "smell"}}, "the modality 'smell' is unknown; known"),
        ({"type": "file", "file": {"file_data": "a", "modality": ["image"]}}, "is unknown; known: image, video"),
        ({"type": ["file"]}, "message 2 has a part of type ['file']; known"),
        ({"type": "A" * 9999}, f"message 2 has a part of type '{'A' * 76}...; known"),
        (
            {"type": "image", "source": {"type": "file", "file_id": "f"}},
            "a part of type image with the source {'type': 'file', 'file_id': 'f'}; of Anthropic's sources base64",
        ),
        ({"type": "video", "video": ["a.jpg", "b.jpg"]}, "type video with a list; lists of frames are not read; make"),
    ],
)
def test_a_part_that_means_nothing_is_one_sentence(part: Any, sentence: str) -> None:
    with pytest.raises(SampleError) as error:
        read_part(part, 2)
    assert sentence in str(error.value)


def test_the_modality_of_a_file_is_declared_never_guessed() -> None:
    assert file_modality("", "data:audio/x-wav;base64,AAAA") == "audio"
    assert file_modality("tone.wav", "data:application/octet-stream;base64,AAAA") == "audio"
    assert file_modality("tone.wav", "data:video/mp4;base64,AAAA", "graph") == "graph"
    with pytest.raises(MediaError, match=r"disagree \(audio, video\); send modality"):
        file_modality("tone.wav", "data:video/mp4;base64,AAAA")


# ---- messages


def test_each_piece_of_a_message_stands_on_its_own_line() -> None:
    content = [{"type": "text", "text": "Is"}, {"type": "image", "image": "a"}, {"type": "text", "text": "red?"}]
    turns = list(read_turns([{"role": "user", "content": content}, Message("assistant", "Yes.")]))
    assert turns == [
        Turn("user", ("Is", MediaPart("image", "image", "a", 1), "red?")),
        Turn("assistant", ("Yes.",)),
    ]
    messages, media = assemble(turns, lambda part: part.item.upper(), {"image": "eye"}.__getitem__)
    assert messages == (Message("user", "Is\n<eye>\nred?"), Message("assistant", "Yes."))
    assert media == {"eye": ("A",)}


def test_fields_and_parts_share_one_order() -> None:
    turns = [
        Turn("user", ("<image>?", MediaPart("image", "image", "own", 1))),
        Turn("user", (MediaPart("image", "image", None, 2), "<image> <thermal>")),
    ]
    fields = {"image": ["one", "two", "three", "four"], "thermal": ["t"], "depth": []}
    messages, media = assemble(turns, lambda part: part.item, fields=fields)
    assert [message.text for message in messages] == ["<image>?\n<image>", "<image>\n<image> <thermal>"]
    assert media == {"image": ("one", "own", "two", "three", "four"), "thermal": ("t",)}


def test_roles_are_the_callers() -> None:
    row = [{"role": "developer", "content": "Be brief."}]
    with pytest.raises(SampleError, match=r"^message 1 has the role 'developer'; known: system, user, assistant$"):
        list(read_turns(row))
    assert to_sample([*row, {"role": "user", "content": "Hi"}], keys={}).messages[0] == Message("system", "Be brief.")


# ---- training data and requests read the same


def every_part() -> list[dict[str, Any]]:
    """Parts of every type with data URLs, texts between them."""
    urls = {name: data_url(data, MODALITIES[name].example[5:].partition(";")[0]) for name, (_, data) in FILES.items()}
    urls["image"] = RED
    named = [{"type": f"{name}_url", f"{name}_url": {"url": url}} for name, url in urls.items()]
    bare = [{"type": name, name: url} for name, url in urls.items()]
    files = [{"type": "file", "file": {"file_data": url, "modality": name}} for name, url in urls.items()]
    return [*named, {"type": "text", "text": "then"}, *bare, *files, sound_part(FILES["audio"][1]), image_part()]


def test_the_same_row_gives_the_same_sample_in_training_and_in_a_request(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": every_part()},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": [{"type": "text", "text": "And?\n"}, image_part(), {"type": "text", "text": ""}]},
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    row = Chat(str(tmp_path / "chat.jsonl"))[0]
    processors = {name: AnyEncoder(name).processor for name in MODALITIES}
    inputs = Inputs({name: name for name in MODALITIES}, processors)
    request = requested(
        ChatRequest.model_validate({"model": "m", "messages": messages}), row.name, inputs, Limits(max_seconds=60)
    )
    python = to_sample(messages, keys=inputs.keys, name=row.name)
    assert python == row
    assert (request.name, request.messages) == (row.name, row.messages)
    assert row.messages[1].text.split("\n")[:8] == [f"<{name}>" for name in [*FILES, "image"]] + ["then", "<video>"]
    assert row.messages[3].text == "And?\n\n<image>\n"
    assert {name: len(items) for name, items in row.media.items()} == {
        **dict.fromkeys(FILES, 3),
        "audio": 4,
        "image": 5,
    }
    images = dict(request.media).pop("image")
    assert all(picture.size == (40, 30) and picture.getpixel((0, 0)) == (255, 0, 0) for picture in images)
    assert row.media["image"] == (RED_BYTES,) * 5 and len(images) == 5
    for name, (_, data) in FILES.items():
        assert set(row.media[name]) == {data} and request.media[name] == row.media[name]


def test_a_file_part_of_training_data_may_be_a_path(tmp_path: Path) -> None:
    parts = [
        {"type": "file", "file": {"file_data": "a.json"}},
        {"type": "file", "file": {"file_data": "b", "filename": "b.wav"}},
    ]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A."}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row))
    sample = Chat(str(tmp_path / "chat.jsonl"))[0]
    assert sample.messages[0].text == "<graph>\n<audio>"
    assert sample.media == {"graph": (tmp_path / "a.json",), "audio": (tmp_path / "b",)}


# ---- Python


def test_a_question_with_media_by_keyword() -> None:
    red = Image.new("RGB", (3, 2), "red")
    sample = to_sample("What is it?", keys=KEYS, media={"image": red, "audio": "a.wav"})
    assert sample == Sample(
        "chat", (Message("user", "<image>\n<audio>\nWhat is it?"),), {"image": (red,), "audio": (Path("a.wav"),)}
    )
    sample = to_sample("Same?", keys=KEYS, media={"images": ["a.png", b"png"], "image": None, "cloud": "c.ply"})
    assert sample.messages[0].text == "<image>\n<image>\n<cloud>\nSame?"
    assert sample.media == {"image": (Path("a.png"), b"png"), "cloud": (Path("c.ply"),)}
    assert to_sample("Hi", keys={}) == Sample("chat", (Message("user", "Hi"),), {})
    sample = to_sample("Warm?", keys={"heat": "thermal"}, media={"thermal": {"kelvin": 300}})
    assert (sample.messages[0].text, sample.media) == ("<thermal>\nWarm?", {"thermal": ({"kelvin": 300},)})


def test_media_take_the_placeholders_of_the_text_where_it_has_some() -> None:
    two = {"one": "image", "two": "image"}
    sample = to_sample("Same?", keys={"image": "one"}, media={"two": "b.png", "image": "a.png"}, placeholders=two)
    assert sample.media == {"two": (Path("b.png"),), "one": (Path("a.png"),)}
    assert sample.messages[0].text == "<two>\n<one>\nSame?"
    sample = to_sample("<image> or <image>?", keys=KEYS, media={"image": ["a.png", "b.png"], "points": "c.ply"})
    assert sample.messages[0].text == "<cloud>\n<image> or <image>?"
    assert sample.media == {"image": (Path("a.png"), Path("b.png")), "cloud": (Path("c.ply"),)}
    bare = [{"role": "user", "content": [{"type": "text", "text": "This:"}, {"type": "image"}]}]
    sample = to_sample(bare, keys=KEYS, media={"image": "a.png"})
    assert (sample.messages[0].text, sample.media) == ("This:\n<image>", {"image": (Path("a.png"),)})


def test_a_conversation_of_dicts_and_messages() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": numpy.zeros((2, 3, 3), numpy.uint8)}]},
        Message("assistant", "Black."),
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "b.png"}}]},
    ]
    sample = to_sample(messages, keys=KEYS, media={"image": ["c.png"]}, name="x")
    assert [message.text for message in sample.messages] == ["<image>", "Black.", "<image>\n<image>"]
    black, front, own = sample.media["image"]
    assert black.size == (3, 2) and black.getpixel((0, 0)) == (0, 0, 0)
    assert (front, own) == (Path("c.png"), Path("b.png"))


@pytest.mark.parametrize(
    ("messages", "media", "sentence"),
    [
        ([], {}, "x: the last message is missing; it must be the user's"),
        ([Message("user", "?"), Message("assistant", "!")], {}, "x: the last message is the assistant's; it must be"),
        (["Hi"], {}, "x: message 1 is of type str; a message is {'role': ..., 'content': ...} or a Message"),
        ({"role": "user", "content": "Hi"}, {}, "x: found a dict; give a question or a list of messages"),
        ("?", {"video": "a.mp4"}, "x: video: the model takes no videos; it takes text, images, sounds and"),
        ("?", {"smell": "a"}, "x: 'smell' is neither a setting (max_new_tokens, "),
        ("?", {"image": 7}, "x: image: no image can be made of a value of type int; give a path, a file:// or data:"),
        ("?", {"image": "http://a/b.png"}, "x: image: http://a/b.png is not fetched; download the media"),
        (
            [Message("assistant", "Hi"), {"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
            {},
            "x: message 2: the model takes no videos",
        ),
        (
            [{"role": "user", "content": [{"type": "audio", "audio": numpy.zeros(4)}]}],
            {},
            "x: message 1: no sound can be made of a value of type ndarray; give a path, a file:// or data: URL, or "
            "the bytes of a file, or (samples, samples per second)",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(messages: Any, media: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SampleError) as error:
        to_sample(messages, keys=KEYS, media=media, name="x")
    assert str(error.value).startswith(sentence)


def test_placeholders_of_a_modality_that_the_model_lacks_are_said_to_be_text(caplog: pytest.LogCaptureFixture) -> None:
    sample = to_sample("<video> What does the <audio> tag do?", keys=KEYS, media={"audio": "a.wav"})
    assert sample.messages[0].text == "<video> What does the <audio> tag do?"
    assert caplog.messages == [
        "<video> is read as text: the model takes no videos; it takes text, images, sounds and point clouds"
    ]
    caplog.clear()
    to_sample([Message("user", "\\<video>?"), Message("assistant", "<video>"), Message("user", "Hm?")], keys=KEYS)
    assert not caplog.messages
