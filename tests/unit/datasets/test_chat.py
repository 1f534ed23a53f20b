"""The chat.jsonl format in all its forms and faults, and easy-VQA's official files."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmllm.datasets.chat import Chat
from mmllm.datasets.easy_vqa import EasyVqa
from mmllm.errors import MmllmError, SampleError
from mmllm.testing.tiny.datasets import easy_vqa
from mmllm.types import Message, Sample

ANSWER = {"role": "assistant", "content": "A cat."}


def _write(folder: Path, *rows: Any, between: str = "\n") -> Path:
    path = folder / "chat.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + between for row in rows))
    return path


def _one(folder: Path, content: Any, **fields: Any) -> Sample:
    row = {"id": "x7", "messages": [{"role": "user", "content": content}, ANSWER], **fields}
    return Chat(str(_write(folder, row)))[0]


def test_a_line_becomes_a_sample(tmp_path: Path) -> None:
    sample = _one(tmp_path, "<image>\nWhat is it?", image=["a.jpg"], score=3)
    assert sample.name == f"{tmp_path / 'chat.jsonl'}:1"
    assert sample.messages == (Message("user", "<image>\nWhat is it?"), Message("assistant", "A cat."))
    assert sample.media == {"image": (tmp_path / "a.jpg",)}


def test_media_folder_absolute_paths_and_data_urls(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    data = base64.b64encode(b"bytes").decode()
    rows = {
        "messages": [{"role": "user", "content": "<image>" * 5}, ANSWER],
        "image": ["a.png", "/b.png", f"data:image/png;base64,{data}", f"DATA:image/png;Base64,{data}", "FILE:///c.png"],
    }
    source = Chat(str(_write(tmp_path, rows)), media=str(tmp_path / "pictures"))
    assert source[0].media == {
        "image": (tmp_path / "pictures" / "a.png", Path("/b.png"), b"bytes", b"bytes", Path("/c.png"))
    }


def test_a_path_with_half_a_sign_is_a_path(tmp_path: Path) -> None:
    assert _one(tmp_path, "<image>", image=["\ud800.png"]).media == {"image": (tmp_path / "\ud800.png",)}


def test_parts_are_texts_and_placeholders_in_order(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "First <image> then"},
        {"type": "image_url", "image_url": {"url": "inline.png"}},
        {"type": "image"},
        {"type": "image", "image": "own.png"},
        {"type": "text", "text": "Which?"},
    ]
    sample = _one(tmp_path, parts, image=["one.png", "two.png"])
    assert sample.messages[0].text == "First <image> then\n<image>\n<image>\n<image>\nWhich?"
    names = [Path(item).name for item in sample.media["image"]]
    assert names == ["one.png", "inline.png", "two.png", "own.png"]


def test_parts_of_every_sense(tmp_path: Path) -> None:
    sound = base64.b64encode(b"RIFF").decode()
    parts = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "clip.mp4#t=3,7.5"}},
        {"type": "audio_url", "audio_url": {"url": "b.wav"}},
        {"type": "audio_url", "audio_url": f"data:audio/wav;base64,{sound}"},
        {"type": "graph", "graph": "cora.npz#17"},
        {"type": "points"},
        {"type": "document"},
        {"type": "text", "text": "<audio>?"},
    ]
    sample = _one(tmp_path, parts, points="cloud.npy", document=["long.txt"], audio=["last.wav"])
    places = "<audio> <video> <audio> <audio> <graph> <points> <document> <audio>?"
    assert sample.messages[0].text == places.replace(" ", "\n")
    assert sample.media == {
        "audio": (b"RIFF", tmp_path / "b.wav", b"RIFF", tmp_path / "last.wav"),
        "video": (tmp_path / "clip.mp4#t=3,7.5",),
        "graph": (tmp_path / "cora.npz#17",),
        "points": (tmp_path / "cloud.npy",),
        "document": (tmp_path / "long.txt",),
    }


def test_a_bad_sound_in_a_part_is_a_named_bad_sample(tmp_path: Path) -> None:
    for value, sentence in (({"data": "a*"}, "input_audio cannot be read"), ({}, "input_audio without its data")):
        with pytest.raises(SampleError, match=sentence):
            _one(tmp_path, [{"type": "input_audio", "input_audio": value}])


def test_any_field_named_in_the_text_is_media(tmp_path: Path) -> None:
    sample = _one(tmp_path, "<image> and <thermal>", image="a.png", thermal="b.png", label="c.png")
    assert {key: [item.name for item in items] for key, items in sample.media.items()} == {
        "image": ["a.png"],
        "thermal": ["b.png"],
    }


def test_media_without_a_placeholder_stay_visible(tmp_path: Path) -> None:
    assert len(_one(tmp_path, "What is it?", image=["a.png"]).media["image"]) == 1
    assert len(_one(tmp_path, "<image>?", image=["a.png", "b.png"]).media["image"]) == 2
    assert _one(tmp_path, "Text only", image=None).media == {}


def test_blank_lines_and_line_ends(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"é{i}"}, ANSWER]} for i in range(3)]
    source = Chat(str(_write(tmp_path, *rows, between="\r\n\n  \n")))
    assert [source[i].messages[0].text for i in range(len(source))] == ["é0", "é1", "é2"]
    assert [sample.name.rsplit(":", 1)[1] for sample in (source[0], source[1], source[2])] == ["1", "4", "7"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{broken", "not a JSON object"),
        ([1], "a row is a JSON object, and this is [1]"),
        ({"conversations": []}, "no list of messages"),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            "message 1 has the role 'narrator'; known: system, developer, user, human, assistant, gpt",
        ),
        ({"messages": ["x"]}, "message 1 is of type str"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "part of type 'file'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "part of type 'text'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url without its url"),
        ({"messages": [], "image": [3]}, "it is a path, a data URL, base64"),
        ({"messages": [], "image": {"a": 1}}, "it is a path, a data URL, base64"),
        ({"messages": [], "image": ["https://a.b/c.png"]}, "is not fetched"),
        ({"messages": [], "image": ["data:image/png,abc"]}, "data URL cannot be read"),
        ({"messages": [], "image": ["data:image/png;base64,a*"]}, "data URL cannot be read"),
        ({"messages": [], "image": ["HTTPS://a.b/c.png"]}, "is not fetched"),
        (
            {"messages": [], "image": "_" * 9999},
            f"image holds '{'_' * 76}..., which is too long for a path and no base",
        ),
        ({"messages": [], "image": f"a/{'é-' * 99}.png"}, "which is too long for a path"),
        ({"messages": [], "image": [list("AB" * 9999)]}, "image holds ['A', 'B', "),
        ({"messages": [{"role": "A" * 9999, "content": "x"}]}, f"has the role '{'A' * 76}...; known"),
        (
            {"messages": [], "audio": {"path": None, "array": [0.1] * 9999, "sampling_rate": 16000}},
            "samples that the datasets library has decoded, which are not read; save the column as files: dataset.cast",
        ),
        ({"messages": [], "video": ["a.jpg", "b.jpg"]}, "video holds pictures, ['a.jpg', 'b.jpg']; lists of frames"),
        ({"messages": [], "videos": [["a.jpg", "b.jpg"]]}, "videos holds ['a.jpg', 'b.jpg']; lists of frames"),
    ],
)
def test_a_bad_line_is_a_named_bad_sample(tmp_path: Path, row: Any, sentence: str) -> None:
    source = Chat(str(_write(tmp_path, {"messages": [ANSWER]}, row)))
    assert source[0].messages
    with pytest.raises(SampleError) as error:
        source[1]
    assert str(error.value).startswith(f"{tmp_path / 'chat.jsonl'}:2: ") and sentence in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 400


def test_an_unusable_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="holds no row"):
        Chat(str(_write(tmp_path, " ")))
    with pytest.raises(MmllmError, match="where the media"):
        Chat(str(_write(tmp_path, {"messages": [ANSWER]})), media=str(tmp_path / "gone"))


def test_easy_vqa_rows(tmp_path: Path) -> None:
    easy_vqa(tmp_path)
    questions = tmp_path / "train" / "questions.json"
    questions.write_text(json.dumps([["a?", "b", 4], ["a?", "b"], ["a?", 1, 4]]))
    source = EasyVqa(str(tmp_path))
    assert source[0].messages == (Message("user", "<image>\na?"), Message("assistant", "b"))
    assert source[0].media == {"image": (tmp_path / "train" / "images" / "4.png",)}
    for index in (1, 2):
        with pytest.raises(SampleError, match=f"easy_vqa:train:{index}: the row"):
            source[index]
    questions.write_text("{")
    with pytest.raises(MmllmError, match="is not JSON"):
        EasyVqa(str(tmp_path))


@pytest.mark.skipif("MMLLM_TEST_DATA" not in os.environ, reason="MMLLM_TEST_DATA names no folder of real data")
@pytest.mark.parametrize(("split", "size"), [("train", 38575), ("test", 9673)])
def test_the_official_easy_vqa(split: str, size: int) -> None:
    source = EasyVqa(str(Path(os.environ["MMLLM_TEST_DATA"]) / "easy_vqa"), split)
    assert len(source) == size
    answers = (Path(os.environ["MMLLM_TEST_DATA"]) / "easy_vqa" / "answers.txt").read_text().split()
    seen = {source[i].messages[1].text for i in range(len(source))}
    assert seen == set(answers)
    assert all(item.is_file() for i in range(0, size, 97) for item in source[i].media["image"])
