"""The terminal chat over a tiny real model, and pictures drawn with half blocks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mmllm.generate import Generator
from mmllm.types import Message, Sample
from serve.media import Limits
from serve.picture import SHADES, draw
from serve.terminal import Chat
from serve.typed_paths import split_paths
from tests.serving import picture, tiny_generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "red square.png"
    picture("red").save(path)
    return path


def talk(generator: Generator, max_images: int = 2) -> tuple[Chat, io.StringIO]:
    out = io.StringIO()
    return Chat(generator, Console(file=out, width=80), Limits(max_images=max_images), max_new_tokens=5), out


def answer(generator: Generator, *messages: Message, images: tuple[Image.Image, ...] = ()) -> str:
    sample = Sample("x", messages, {"image": images} if images else {})
    return "".join(piece.text for piece in generator.stream(sample, 5))


def test_a_question_about_a_dropped_image_and_one_that_follows(generator: Generator, image: Path) -> None:
    chat, out = talk(generator)
    assert chat.turn(f"What is in '{image}' here?")
    first = answer(generator, Message("user", "<image>\nWhat is in here?"), images=(picture("red"),))
    assert chat.messages == (Message("user", "<image>\nWhat is in here?"), Message("assistant", first))
    assert chat.turn("And now?")
    second = answer(generator, *chat.messages[:2], Message("user", "And now?"), images=(picture("red"),))
    assert chat.messages[-1].text == second
    assert out.getvalue().count("model>") == 2


def test_image_command_waits_for_the_question(generator: Generator, image: Path) -> None:
    chat, out = talk(generator)
    chat.turn(f"/image {str(image).replace(' ', chr(92) + ' ')}")
    assert len(chat.pending) == 1 and chat.messages == ()
    assert len(out.getvalue().splitlines()) == 15  # 40 columns of a 40 x 30 picture
    chat.turn("What?")
    assert chat.messages[0].text == "<image>\nWhat?" and len(chat.items) == 1 and chat.pending == ()
    chat.turn("/clear")
    assert (chat.messages, chat.items) == ((), ())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/image absent.png", "absent.png is not a file"),
        ("/frobnicate", "not a command"),
        ("What is <image> here?", "<image> marks the place"),
        ("cat " * 400, "over the context of 256"),
        ("/help", "/quit"),
    ],
)
def test_faults_are_said_and_change_nothing(generator: Generator, line: str, words: str) -> None:
    chat, out = talk(generator)
    assert chat.turn(line.strip())
    assert words in " ".join(out.getvalue().split())
    assert (chat.messages, chat.items, chat.pending) == ((), (), ())


def test_too_many_images(generator: Generator, image: Path) -> None:
    chat, out = talk(generator, max_images=1)
    chat.turn(f'"{image}" What?')
    chat.turn(f'"{image}" And this?')
    assert "at most 1 images" in out.getvalue() and len(chat.items) == 1 and len(chat.messages) == 2


def test_the_loop_ends_with_quit_and_with_the_input(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    for lines, turns in (("Hi\n/quit\nnever\n", 1), ("Hi\nHo\n", 2)):
        chat, _ = talk(generator)
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        chat.loop()
        assert len(chat.messages) == 2 * turns


def test_paths_in_a_line(image: Path) -> None:
    plain = image.with_name("a.jpg")
    picture().save(plain)
    escaped = str(image).replace(" ", "\\ ")
    address = image.as_uri()
    for word, path in (
        (f"'{image}'", image),
        (f'"{image}"', image),
        (escaped, image),
        (address, image),
        (plain, plain),
    ):
        assert split_paths(f"What's in {word} then?") == ("What's in then?", [path])
    assert split_paths(f"What is in {plain}?") == ("What is in ?", [plain])
    assert split_paths("Is 3/4 more than absent.png or it's not?") == ("Is 3/4 more than absent.png or it's not?", [])


def printed(image: Image.Image, width: int, colour: bool, terminal: int = 80) -> str:
    out = io.StringIO()
    system = "truecolor" if colour else None
    Console(file=out, width=terminal, force_terminal=colour, color_system=system).print(draw(image, width))
    return out.getvalue()


def test_half_blocks_hold_two_pixels_each() -> None:
    image = Image.new("RGB", (2, 2))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)])
    text = printed(image, 2, colour=True)
    assert text.count("\u2580") == 2 and text.count("\n") == 1
    assert "38;2;255;0;0;48;2;0;0;255m" in text and "38;2;0;255;0;48;2;9;8;7m" in text


def test_size_follows_the_picture_and_the_terminal() -> None:
    lines = printed(Image.new("RGB", (400, 200)), 40, colour=False).splitlines()
    assert (len(lines), {len(line) for line in lines}) == (10, {40})
    assert len(printed(Image.new("RGB", (400, 200)), 40, colour=False, terminal=20).splitlines()[0]) == 20
    assert len(printed(Image.new("RGB", (400, 1)), 40, colour=False).splitlines()) == 1


def test_shades_without_colour_and_white_behind_transparency() -> None:
    assert printed(Image.new("L", (4, 4), 0), 4, colour=False) == "    \n    \n"
    assert set(printed(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), 4, colour=False)) == {SHADES[-1], "\n"}


def test_rotation_by_exif_is_followed() -> None:
    image = Image.new("RGB", (40, 10))
    image.getexif()[0x0112] = 6
    assert len(printed(image, 10, colour=False).splitlines()) == 20
