"""Where a text marks places of media, and how the text of a placeholder is written as text."""

from __future__ import annotations

import pytest

from mmllm.errors import SampleError
from mmllm.messages.chat import to_sample
from mmllm.messages.placeholders import count, escape, pieces, without
from mmllm.messages.tokenize import Prompter
from mmllm.types import Message, Sample
from tests.support.parts import tiny_tokenizer

KEYS = ("image", "video")
BACKSLASH = "\\"


def read(text: str, role: str = "user") -> tuple[str, int]:
    """What a message says, and how many pictures it shows."""
    message = Message(role, text)
    return "".join(piece for piece, _ in pieces(message, KEYS)), count(message, "image")


@pytest.mark.parametrize(
    ("typed", "says", "n_images"),
    [
        ("<image>\nWhat?", "<image>\nWhat?", 1),
        (r"What is \<image> in SVG?", "What is <image> in SVG?", 0),
        (r"C:\\<image>", r"C:\<image>", 1),
        (r"C:\\\<image>", r"C:\<image>", 0),
        (r"a\b <imag> \<other>", r"a\b <imag> \<other>", 0),
        ("<image><image>", "<image><image>", 2),
        (r"<image>\<image>", "<image><image>", 1),
    ],
)
def test_backslashes_before_a_placeholder(typed: str, says: str, n_images: int) -> None:
    assert read(typed) == (says, n_images)
    assert read(typed, "system") == (says, n_images)


@pytest.mark.parametrize("text", ["<image>", r"\<image>", r"\\<video> and <image><image>", "no place", BACKSLASH])
def test_an_escaped_text_is_read_as_itself(text: str) -> None:
    assert read(escape(text, KEYS)) == (text, 0)


def test_what_the_assistant_says_is_text() -> None:
    assert read(r"Write <image> or \<image>.", "assistant") == (r"Write <image> or \<image>.", 0)


def test_places_are_taken_out_and_escapes_stay() -> None:
    message = Message("user", "<image>\nIs \\<image> a tag, " + BACKSLASH * 2 + "<image>?")
    assert without(message, KEYS) == "Is \\<image> a tag, \\?"


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(tiny_tokenizer(), ["image"])


def decoded(prompter: Prompter, *messages: Message, n_images: int) -> str:
    sample = Sample("a", messages, {"image": ("a.png",) * n_images} if n_images else {})
    prompt = prompter.tokenize_for_training(sample)
    assert len(prompt.places) == n_images
    places = {position for position, _ in prompt.places}
    return str(tiny_tokenizer().decode([i for n, i in enumerate(prompt.ids) if n not in places]))


def test_typed_placeholders_reach_the_model_as_plain_text(prompter: Prompter) -> None:
    user, answer = Message("user", "<image>\nHow do I write \\<image>?"), Message("assistant", "As <image>.")
    text = decoded(prompter, user, answer, n_images=1)
    assert "How do I write <image>?" in text and "As <image>." in text and BACKSLASH not in text


def test_too_many_places_name_the_escape(prompter: Prompter) -> None:
    sample = Sample("a", (Message("user", "What is <image>?"), Message("assistant", "A tag.")))
    with pytest.raises(SampleError, match=r"1 <image> placeholders in the text, 0 items given; write \\<image> where"):
        prompter.tokenize_for_training(sample)


def test_python_takes_the_escape() -> None:
    sample = to_sample("What is \\<image>?", keys={"image": "image"}, media={"image": "a.png"})
    assert sample.messages[-1].text == "<image>\nWhat is \\<image>?"
