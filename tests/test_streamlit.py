"""The chat page, driven by Streamlit's AppTest against a real server over a tiny real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mmllm.generate import Generator
from mmllm.types import Message, Sample
from serve.app import create_app
from serve.media import Limits
from tests.serving import MODEL, file_bytes, picture, running, tiny_generator

PAGE = Path(__file__).resolve().parents[1] / "streamlit_app.py"
RED = file_bytes(picture("red"))


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


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


def test_files_that_are_no_images_are_not_taken(page: AppTest) -> None:
    assert set(page.chat_input("ask").proto.file_type) == {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
