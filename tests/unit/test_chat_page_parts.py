"""Parts of the chat page that need no page: boxes and points in answers, their colours, conversations as files."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from PIL import Image

from serve.client import Card, ServerFault, plain
from serve.markup import escaped, tree
from serve.page.conversation import Conversation, Reply, Turn
from serve.page.drawing import COLOURS, colour_of, heated, marked
from serve.page.marks import marks
from serve.page.saving import SavedError, dumped, exported, files_of, imported, loaded
from serve.page.uploads import Upload, upload_of

SIZE = (200, 100)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[75,25,97,45]", [("", (0.75, 0.25, 0.97, 0.45))]),  # the miniature's, hundredths
        ("Total 12.50 [0.100,0.200,0.300,0.400]\nDate [0.5,0.5,0.6,0.6]",
         [("Total 12.50", (0.1, 0.2, 0.3, 0.4)), ("Date", (0.5, 0.5, 0.6, 0.6))]),  # grounded_text's
        ("a cat [100, 200, 300, 400], a dog [50, 50, 60, 60]",  # one scale for all of an answer
         [("a cat", (0.1, 0.2, 0.3, 0.4)), ("a dog", (0.05, 0.05, 0.06, 0.06))]),
        ("at (100,200),(300,400)", [("at", (0.1, 0.2, 0.3, 0.4))]),
        ("<loc0256><loc0128><loc0512><loc0768> cat ; <loc0000><loc0000><loc1023><loc1023> dog",  # PaliGemma
         [("cat", (0.125, 0.25, 0.75, 0.5)), ("dog", (0.0, 0.0, 0.999, 0.999))]),
        ("car<loc_100><loc_200><loc_300><loc_400>", [("car", (0.1, 0.2, 0.3, 0.4))]),  # Florence-2
        ("<p>an apple</p> {<25><30><50><60>}", [("an apple", (0.25, 0.3, 0.5, 0.6))]),  # MiniGPT-v2
        ("<ref>the cat</ref><box>(100,200),(300,400)</box>", [("the cat", (0.1, 0.2, 0.3, 0.4))]),  # Qwen-VL
        ("<|object_ref_start|>a sign<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
         [("a sign", (0.1, 0.2, 0.3, 0.4))]),  # Qwen2-VL
        ("<ref>dogs</ref><box>[[10, 20, 30, 40], [500, 500, 900, 900]]</box>",  # InternVL
         [("dogs", (0.01, 0.02, 0.03, 0.04)), ("dogs", (0.5, 0.5, 0.9, 0.9))]),
        ("<|ref|>dog<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>", [("dog", (0.0, 0.0, 1.0, 1.0))]),  # DeepSeek-VL2
        ("<phrase>a dog</phrase><object><patch_index_0000><patch_index_1023></object>",  # Kosmos-2
         [("a dog", (0.016, 0.016, 0.984, 0.984))]),
        ('<point x="10.5" y="20.1" alt="an eye">eye</point>', [("an eye", (0.105, 0.201))]),  # Molmo
        ('<points x1="1" y1="2" x2="30" y2="40" alt="dogs">dogs</points>',
         [("dogs", (0.01, 0.02)), ("dogs", (0.3, 0.4))]),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "sign"}, {"label": "tip", "point_2d": [50, 60]}]\n```',
         [("sign", (0.1, 0.2, 0.3, 0.4)), ("tip", (0.05, 0.06))]),  # Qwen2.5-VL and 3
        ('[{"box_2d": [100, 200, 300, 400], "label": "x"}]', [("x", (0.2, 0.1, 0.4, 0.3))]),  # Gemini
        ("It is at (0.52, 0.31).", [("It is at", (0.52, 0.31))]),
        ("(52, 31)", [("", (0.52, 0.31))]),
        # no boxes: numbers of another kind, without an area, outside of the picture
        ("In 1999 [1, 2] and (3, 4) were 1, 2, 3, 4", []),
        ("[90,25,10,45]", []),
        ("<box>(100,200),(3000,400)</box>", []),
        ("a[0] (see [1]) <box>nowhere</box> <point x='1'> [1,2,3] {<1><2>}", []),
    ],
)  # fmt: skip
def test_boxes_and_points_are_found_in_every_form(text: str, found: list[Any]) -> None:
    assert [(one.label, tuple(round(number, 3) for number in one.numbers)) for one in marks(text, SIZE)] == found
    assert all(one.written in text for one in marks(text, SIZE))


def test_the_scale_of_bare_numbers_may_be_told() -> None:
    text = "[20, 10, 100, 50] <loc0256><loc0128><loc0512><loc0768>"
    by = {scale: marks(text, SIZE, scale)[0].numbers for scale in (None, 100.0, 1000.0, 0.0)}
    assert by[None] == by[100.0] == (0.2, 0.1, 1.0, 0.5)
    assert by[1000.0] == (0.02, 0.01, 0.1, 0.05) and by[0.0] == (0.1, 0.1, 0.5, 0.5)
    assert {marks(text, SIZE, scale)[1].numbers for scale in (None, 100.0, 0.0)} == {(0.125, 0.25, 0.75, 0.5)}
    assert marks("[20, 10, 1900, 50]", (3800, 100))[0].numbers == (20 / 3800, 0.1, 0.5, 0.5)  # over 1000: pixels


def test_marks_and_heat_are_drawn_where_they_are() -> None:
    ground = Image.new("RGB", (400, 200), "gray")
    drawn = marked(ground, marks("[0.25,0.5,0.75,0.9] (0.9, 0.2)", ground.size))
    for place, number in (((100, 150), 0), ((200, 100), 0), ((360, 42), 1)):
        here = {drawn.getpixel((place[0] + x, place[1] + y)) for x in range(-3, 4) for y in range(-3, 4)}
        assert tuple(bytes.fromhex(colour_of(number)[1:])) in here, place
    assert drawn.getpixel((200, 150)) == (128, 128, 128) == ground.getpixel((100, 150))
    assert colour_of(len(COLOURS)) == colour_of(0) and len(set(COLOURS)) == len(COLOURS)
    hot = heated(ground, [[0.0, 0.0, 0.0, 1.0], [0.0, 0.5, 0.0, 0.0]], 1.0).convert("L")
    brightness = [[hot.getpixel((100 * col + 50, 100 * row + 50)) for col in range(4)] for row in range(2)]
    assert brightness[0][3] > brightness[1][1] > brightness[0][0] == brightness[1][3]


TASK = {"type": "task", "task": "crop", "text": "the sign", "places": [{"numbers": [1, 2, 3, 4]}], "result": {"n": 1}}


def conversation() -> Conversation:
    one = Turn("What is it?", (Upload("a ü.png", "image", b"\x89PNG\0"), Upload("b.wav", "audio", b"RIFF")))
    one.replies = [
        Reply("m", "http://x", "A “sign”.", "3 tokens", tags=[TASK]),
        Reply("n", "http://y", "", "", "It broke off."),
    ]
    return Conversation([one, Turn("", one.uploads[:1], fault="a ü.png is too large.")])


def test_a_conversation_is_exported_and_imported_whole() -> None:
    told = conversation()
    read = imported(exported(told).encode())
    assert read.ident != told.ident and read.title == told.title == "What is it?"
    assert [dumped(one)["turns"] for one in (read, told)] == [dumped(told)["turns"]] * 2
    assert [turn.uploads for turn in read.turns] == [turn.uploads for turn in told.turns]
    kept = json.loads(json.dumps(dumped(told, with_files=False)))  # as the browser keeps it
    assert b"PNG" not in json.dumps(kept).encode()
    again = loaded(kept, files_of(told))
    assert dumped(again) == dumped(told)
    (one, _) = loaded(kept, {told.turns[0].uploads[0].digest: b"\x89PNG\0"}).turns  # the other file is gone
    assert [upload.name for upload in one.uploads] == ["a ü.png"] and "b.wav" in one.fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: "[" * 100_000, "not JSON"),
        (lambda told: [1], "no conversation"),
        (lambda told: {**told, "format": "x"}, "no conversation"),
        (lambda told: {**told, "version": 2}, "version 2"),
        (lambda told: {**told, "turns": 3}, "no list of turns"),
        (lambda told: {**told, "turns": [{}]}, "Turn 1 of the conversation has no question"),
        (lambda told: {**told, "turns": [{"question": "a", "files": [1]}]}, "files is no list"),
        (lambda told: {**told, "turns": [{"question": "a", "files": [{"name": "b", "data": "%"}]}]}, "no base64"),
        (lambda told: {**told, "turns": [{"question": "a", "answers": [{"text": 5}]}]}, "text is '5' and no text"),
        (lambda told: {**told, "turns": [{"question": "a", "answers": [{"tags": [{"type": "task"}]}]}]}, "the tags of"),
    ],
)
def test_what_is_no_conversation_is_refused_in_a_sentence(change: Any, words: str) -> None:
    bad = change(dumped(conversation()))
    with pytest.raises(SavedError, match=re.escape(words)):
        imported((bad if isinstance(bad, str) else json.dumps(bad)).encode())


def test_a_model_is_told_what_it_said_itself() -> None:
    turns = [Turn(question) for question in ("one", "failed", "two", "three")]
    turns[0].replies = [Reply("a", "x", "A1"), Reply("b", "x", "B1")]
    turns[2].replies = [Reply("a", "x", "A2")]
    told = Conversation(turns)
    contents = [[message["content"] for message in told.messages(turns[3], column)] for column in (0, 1)]
    assert contents == [["one", "A1", "two", "A2", "three"], ["one", "B1", "two", "A2", "three"]]
    told.cut_behind(turns[0])
    assert told.turns == turns[:1] and told.find(turns[0].ident) is turns[0] and told.find("x") is None


def test_a_graph_is_told_its_node() -> None:
    card = Card(100, {"graph": ["json"], "image": ["png"]})
    graph = json.dumps({"nodes": ["a", "b"], "edges": [[0, 1]], "target": 0}).encode()
    assert json.loads(upload_of(card, "g.json", graph, 1).data)["target"] == 1
    assert upload_of(card, "g.json", graph).data == graph
    for data, node, words in ((graph, 2, "has no node 2; its 2 nodes are 0 to 1"), (b"[]", 0, "is no graph")):
        with pytest.raises(ServerFault, match=words):
            upload_of(card, "g.json", data, node)
    with pytest.raises(ServerFault, match="takes: json, png"):
        upload_of(card, "a.exe", b"")


def test_words_of_others_are_words_alone() -> None:
    assert plain("chatcmpl-0123456789abcdef: it is too long") == "it is too long."
    html = tree({"<b>": ["http://x", {}, None], "a": {"b": {"c": [1]}}})
    assert "<li>&lt;b&gt;: <details open><summary>3 items</summary>" in html and "<a" not in html
    assert "<code>&quot;http://x&quot;</code>" in html and html.count("<details>") == 1  # below the third level
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    assert tree(deep).count("<details") == 40
    assert escaped("![x](http://y/z) <b> `c` *d*") == "\\!\\[x\\](http://y/z) \\<b\\> \\`c\\` \\*d\\*"
