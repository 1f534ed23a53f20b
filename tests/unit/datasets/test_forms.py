"""Every form that rows of chat data are written in, where media go in it, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mmllm.datasets.chat import Chat
from mmllm.errors import MmllmError, SampleError
from mmllm.types import Message
from tests.support.containers import pictures, png

ASKED, SAID = {"role": "user", "content": "What colour?"}, {"role": "assistant", "content": "Red."}
CAULDRON = {"user": "What colour?", "assistant": "Red."}
RED = Message("assistant", "Red.")
FRONT = (Message("user", "<image>\nWhat colour?"), RED)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def chat(folder: Path, *rows: Any, **words: Any) -> Chat:
    pictures(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Chat(str(folder / "rows.jsonl"), **words)


@pytest.mark.parametrize(
    ("row", "messages", "form"),
    [
        ({"messages": [ASKED, SAID], "image": "red.png"}, FRONT, "messages"),
        ({"messages": [ASKED, SAID], "images": ["red.png"]}, FRONT, "messages"),
        ({"messages": [{**ASKED, "content": "<image>\nWhat colour?"}, SAID], "images": ["red.png"]}, FRONT, "messages"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]},
                    SAID,
                ],
                "images": [{"bytes": None, "path": "red.png"}],
            },
            FRONT,
            "messages",
        ),
        (
            {"messages": [{**ASKED, "role": "human"}, {**SAID, "role": "gpt"}], "image": "red.png"},
            FRONT,
            "messages",
        ),
        ({"conversations": turns("<image>\nWhat colour?", "Red."), "image": "red.png"}, FRONT, "LLaVA conversations"),
        (
            {"conversations": turns("What colour?\n<image>", "Red."), "image": ["red.png"]},
            (Message("user", "What colour?\n<image>"), RED),
            "LLaVA conversations",
        ),
        (
            {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Ho"}], "system": "Be."},
            (Message("system", "Be."), Message("user", "Hi"), Message("assistant", "Ho")),
            "ShareGPT conversations",
        ),
        ({"query": "<image>What colour?", "response": "Red.", "images": ["red.png"]}, (Message("user", "<image>What colour?"), RED), "queries and responses"),
        (
            {"query": "And?", "response": "Blue.", "history": [["What colour?", "Red."]], "image": "red.png"},
            (*FRONT, Message("user", "And?"), Message("assistant", "Blue.")),
            "queries and responses",
        ),
        (
            {"instruction": "Say it.", "input": "red", "output": "Red."},
            (Message("user", "Say it.\nred"), RED),
            "Alpaca instructions",
        ),
        ({"instruction": "Say it.", "input": "", "output": "Red."}, (Message("user", "Say it."), RED), "Alpaca instructions"),
        ({"prompt": [ASKED], "completion": [SAID], "images": ["red.png"]}, FRONT, "prompts and completions"),
        ({"prompt": "What colour?", "completion": "Red.", "image": "red.png"}, FRONT, "prompts and completions"),
        ({"question": "What colour?", "answer": "Red.", "image": "red.png"}, FRONT, "questions and answers"),
        (
            {"images": ["red.png"], "texts": [{**CAULDRON, "source": "x"}, {"user": "And?", "assistant": "Blue."}]},
            (*FRONT, Message("user", "And?"), Message("assistant", "Blue.")),
            "rounds of texts (The Cauldron, FineVision)",
        ),
        ({"image": "red.png", "caption": "Red."}, (Message("user", "<image>"), RED), "captions"),
        ({"image": "red.png", "text": "Red."}, (Message("user", "<image>"), RED), "captions (text)"),
    ],
)  # fmt: skip
def test_every_form(row: dict[str, Any], messages: tuple[Message, ...], form: str, tmp_path: Path) -> None:
    source = chat(tmp_path, row)
    (sample,) = list(source)
    assert sample.messages == messages
    assert sample.media == ({"image": (tmp_path / "red.png",)} if "red.png" in str(row) else {})
    assert source.summary == f"1 rows, {form} (JSON lines)"


def test_videos_and_sounds_stand_in_their_own_fields(tmp_path: Path) -> None:
    row = {"messages": [ASKED, SAID], "videos": ["c.mp4"], "audios": ["s.wav", "t.wav"]}
    (sample,) = list(chat(tmp_path, row))
    assert sample.media == {"video": (tmp_path / "c.mp4",), "audio": (tmp_path / "s.wav", tmp_path / "t.wav")}
    assert sample.messages[0].text == "<video>\n<audio>\n<audio>\nWhat colour?"


def test_one_form_for_all_rows_unless_told(tmp_path: Path) -> None:
    source = chat(tmp_path, {"query": "a", "response": "b"}, {"messages": [ASKED, SAID]})
    with pytest.raises(SampleError, match=r"rows\.jsonl:2: query is missing"):
        source[1]
    assert chat(tmp_path, {"query": "a", "response": "b", "messages": [ASKED, SAID]}, form="query_response")[
        0
    ].messages == (Message("user", "a"), Message("assistant", "b"))
    with pytest.raises(MmllmError, match=r'form: "alpacca" is unknown; known: .*; did you mean "alpaca"'):
        chat(tmp_path, {"query": "a", "response": "b"}, form="alpacca")


def test_a_damaged_first_row_decides_nothing(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"quer\n{"query": "a", "response": "b"}\n')
    source = Chat(str(tmp_path / "a.jsonl"))
    assert source.form == "query_response" and len(source) == 2


def test_columns_map_other_names(tmp_path: Path) -> None:
    row = {"bild": "red.png", "frage": "What colour?", "antwort": "Red."}
    words = {"columns": {"image": "bild", "question": "frage", "answer": "antwort"}}
    assert chat(tmp_path, row, **words)[0].messages == FRONT
    with pytest.raises(
        MmllmError, match=r'names the field "bilt" for image, and its rows have .*; did you mean "bild"'
    ):
        chat(tmp_path, row, columns={"image": "bilt"})


def test_columns_name_the_key_of_a_connector(tmp_path: Path) -> None:
    sample = chat(tmp_path, {"messages": [ASKED, SAID], "image": "red.png"}, columns={"left": "image"})[0]
    assert sample.media == {"left": (tmp_path / "red.png",)}
    assert sample.messages == (Message("user", "<left>\nWhat colour?"), RED)


@pytest.mark.parametrize("field", ["image_path", "Image", "picture", "img"])
def test_media_under_an_unknown_name_are_refused(field: str, tmp_path: Path) -> None:
    row = {"messages": [ASKED, SAID], field: "red.png"}
    with pytest.raises(MmllmError, match=f'the field "{field}" holds media, and none of that name are read'):
        chat(tmp_path, row)
    assert chat(tmp_path, row, ignore=[field])[0].media == {}
    assert chat(tmp_path, row, columns={"image": field})[0].messages == FRONT


@pytest.mark.parametrize("value", ["data:image/png;base64,AAAA", ["red.png"], {"bytes": None, "path": "red.png"}])
def test_in_any_shape(value: Any, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match='the field "shown" holds media'):
        chat(tmp_path, {"messages": [ASKED, SAID], "shown": value})


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ([{"type": "image", "path": "red.png"}], "holds media"),
        ({"image": "red.png"}, "holds media"),
        ('["red.png"]', "holds media"),
        (base64.b64encode(png("red")).decode(), "holds media"),
        ("scan.tiff", "holds media"),
        ("https://a.b/c.jpg?size=3", r"names media \(https://a\.b/c\.jpg"),
        ("gone/red.png", r"names media \(gone/red\.png"),
    ],
)
def test_media_inside_of_other_values_and_media_that_are_not_here(value: Any, held: str, tmp_path: Path) -> None:
    (tmp_path / "scan.tiff").write_bytes(b"II*\0")
    row = {"messages": [ASKED, SAID], "shown": value}
    with pytest.raises(MmllmError, match=f'the field "shown" {held}.*; write columns: {{image: shown}}'):
        chat(tmp_path, row)
    assert chat(tmp_path, row, ignore=["shown"])[0].media == {}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": [{**ASKED, "images": ["red.png"]}, SAID]}, 'message 1 holds media in "images"'),
        (
            {"conversations": [{"from": "human", "value": "What?", "photo": "red.png"}, *turns("", "Red.")[1:]]},
            'message 1 holds media in "photo"',
        ),
        ({"messages": [{**ASKED, "content": "<img>red.png</img>What?"}, SAID]}, "paths inside of texts are not read"),
        (
            {"messages": [{**ASKED, "content": "<|vision_start|><|image_pad|><|vision_end|>What?"}, SAID]},
            r"the user's text has '<\|vision_start\|>', another model's mark of media",
        ),
        (
            {"messages": [{**ASKED, "content": "<|image_1|>\nWhat?"}, SAID], "images": ["red.png"]},
            r"the user's text has '<\|image_1\|>', another model's mark of media",
        ),
        ({"messages": [{**ASKED, "content": "<IMG_CONTEXT>What?"}, SAID]}, "another model's mark of media"),
        (
            {
                "messages": [ASKED, {**SAID, "content": "<ref-object><bbox>"}],
                "images": ["red.png"],
                "objects": {"ref": ["a dog"], "bbox": [[1, 2, 3, 4]]},
            },
            r'<bbox> in a text stands for an entry of "objects" \(ms-swift\)',
        ),
    ],
)
def test_media_and_boxes_inside_of_messages(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=sentence):
        chat(tmp_path, row)


@pytest.mark.parametrize("words", [{"weight": 0}, {"loss": False}, {"train": False}, {"tool_calls": [{"id": "a"}]}])
def test_what_is_not_to_be_learned_or_would_be_lost(words: dict[str, Any], tmp_path: Path) -> None:
    source = chat(tmp_path, {"messages": [ASKED, {**SAID, **words}]}, {"messages": [ASKED, {**SAID, "weight": 1}]})
    with pytest.raises(SampleError, match=f"message 2 has {next(iter(words))}"):
        source[0]
    assert source[1].messages == (Message("user", "What colour?"), RED)


@pytest.mark.parametrize("field", ["label", "kto_tag"])
def test_an_answer_that_is_not_wanted_is_not_learned(field: str, tmp_path: Path) -> None:
    row = {"prompt": [ASKED], "completion": [SAID]}
    source = chat(tmp_path, {**row, field: True}, {**row, field: False})
    assert source[0].messages == (Message("user", "What colour?"), RED)
    with pytest.raises(SampleError, match=rf"rows\.jsonl:2: {field}: false marks an answer that is not wanted"):
        source[1]
    kept = chat(tmp_path, {**row, field: True}, {**row, field: False}, ignore=[field])
    assert kept[0].messages == kept[1].messages


def test_choices_may_be_ignored(tmp_path: Path) -> None:
    row = {"question": "What colour?", "choices": ["Red.", "Blue."], "answer": "Red."}
    assert chat(tmp_path, row, ignore=["choices"])[0].messages == (Message("user", "What colour?"), RED)
    # a table of rows of several kinds
    assert chat(tmp_path, {"question": "What colour?", "answer": "Red.", "A": None, "B": None})[0].messages[1] == RED


def test_parts_as_transformers_templates_write_them(tmp_path: Path) -> None:
    for words in ({"url": "red.png"}, {"path": "red.png"}, {"image": {"bytes": None, "path": "red.png"}}):
        asked = {"role": "user", "content": [{"type": "image", **words}, {"type": "text", "text": "What colour?"}]}
        row = {"messages": [asked, SAID]}
        assert chat(tmp_path, row)[0].media == {"image": (tmp_path / "red.png",)}
        with pytest.raises(
            SampleError, match="image items stand in parts of the messages and, without a place, beside"
        ):
            chat(tmp_path, {**row, "images": ["blue.png"]})[0]


def test_clips_of_llava_stand_at_the_places_of_images(tmp_path: Path) -> None:
    row = {"conversations": turns("<image>\nWhat moves in \\<image>?", "A car."), "video": "c.mp4"}
    sample = chat(tmp_path, row)[0]
    assert sample.messages[0].text == "<video>\nWhat moves in <image>?"
    assert list(sample.media) == ["video"]


def test_json_in_the_cells_of_tables(tmp_path: Path) -> None:
    llava = json.dumps(turns("<image>\nWhat colour?", "Red."))
    assert chat(tmp_path, {"conversations": llava, "image": '["red.png"]'})[0].messages == FRONT
    row = {"question": "Where?", "answer": "[0.25, 0.1, 0.5, 0.6]", "image": "red.png"}
    (tmp_path / "rows.csv").write_text('question,answer,image\nWhere?,"[0.25, 0.1, 0.5, 0.6]",red.png\n')
    for source in (chat(tmp_path, row), Chat(str(tmp_path / "rows.csv"))):
        assert source[0].messages[1].text == "[0.25, 0.1, 0.5, 0.6]"


def test_columns_of_other_forms_may_be_null(tmp_path: Path) -> None:
    row = {"messages": None, "conversations": turns("<image>\nWhat colour?", "Red."), "image": "red.png"}
    assert chat(tmp_path, row)[0].messages == FRONT


def test_a_later_row_of_that_kind_is_a_bad_sample(tmp_path: Path) -> None:
    source = chat(tmp_path, {"messages": [ASKED, SAID]}, {"messages": [ASKED, SAID], "picture": "red.png"})
    with pytest.raises(SampleError, match=r'rows\.jsonl:2: the field "picture" holds media'):
        source[1]


def test_fields_that_are_no_media_are_left_alone(tmp_path: Path) -> None:
    row = {"messages": [ASKED, SAID], "image": "red.png", "id": "red.png", "source": "gone.png", "score": 3, "tag": "x"}
    assert chat(tmp_path, row)[0].media == {"image": (tmp_path / "red.png",)}
    code = {"messages": [ASKED, SAID], "file": "main.ts", "source": "code.json", "text": "see a.png"}
    assert chat(tmp_path, code)[0].media == {}
    tags = {
        "messages": [{"role": "user", "content": "What does <source> mean, and <id>?"}, SAID],
        "source": "html5",
        "id": 7,
    }
    assert chat(tmp_path, tags)[0].media == {}


def test_two_fields_of_one_placeholder(tmp_path: Path) -> None:
    (source,) = [chat(tmp_path, {"messages": [ASKED, SAID], "image": "red.png", "images": ["blue.png"]})]
    with pytest.raises(SampleError, match="images and another field both hold items of <image>"):
        source[0]
    assert chat(tmp_path, {"messages": [ASKED, SAID], "image": "red.png", "images": []})[0].messages == FRONT


def test_base64_is_decoded_or_its_row_is_bad(tmp_path: Path) -> None:
    text = base64.b64encode(png("red")).decode()
    broken = text[:-3] + "="
    source = chat(
        tmp_path, *({"messages": [ASKED, SAID], "image": one} for one in (text, broken, text[:40] + "\n" + text[40:]))
    )
    assert source[0].media == source[2].media == {"image": (png("red"),)}
    with pytest.raises(SampleError, match="image is neither a file nor base64 that can be read"):
        source[1]


def test_a_mismatch_is_not_mended(tmp_path: Path) -> None:
    from mmllm.messages.tokenize import Prompter
    from tests.support.parts import tiny_tokenizer

    row = {"messages": [{**ASKED, "content": "<image>\nSame?"}, SAID], "image": ["red.png", "blue.png"]}
    with pytest.raises(SampleError, match="1 <image> placeholders in the text, 2 items given"):
        Prompter(tiny_tokenizer(), ["image"]).tokenize_for_training(chat(tmp_path, row)[0])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"conversations": ["x"]}, "message 1 is of type str"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "message 1 has the role 'tool'; known: system"),
        ({"query": ["x"], "response": "y"}, "query is of type list; it is a text"),
        (
            {"question": "?", "choices": ["a", "b"], "answer": 1},
            r"choices holds choices, .*; write .* ignore: \[choices\]",
        ),
        (
            {"question": "?", "A": "a", "B": "b", "answer": "A"},
            r"A, B hold choices, which are not read; .* ignore: \[A, B\]",
        ),
        ({"query": "x", "response": "y", "history": [["a"]]}, "round 1 of history is of type list"),
        (
            {"messages": [ASKED, SAID], "video": {"path": "c.mp4", "start": 1, "end": 2}},
            r"video has start; parts of clips",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "video": "c.mp4", "video_end": 2.0}]}, SAID]},
            r"message 1 has a part of type video with video_end; parts of clips are written .* clip\.mp4#t=1,2\.5",
        ),
        ({"texts": [{"user": "x"}]}, "round 1 of texts has no user and assistant: it is of type dict"),
        ({"messages": "x"}, "no list of messages; it is of type str"),
        ({"messages": [SAID], "image": "red.png"}, "image without a message of the user to stand in"),
        ({"messages": [ASKED, SAID], "image": ["https://a.b/c.png"]}, "is not fetched"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=sentence):
        chat(tmp_path, row)[0]
