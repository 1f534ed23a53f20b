"""The terminal chat over tiny real models: media of every sense shown and asked about, pictures in half blocks."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from mmllm.datasets.chat import Chat as ChatRows
from mmllm.drawing.terminal_image import SHADES, draw
from mmllm.generation.generator import Generator
from mmllm.serving import terminal
from mmllm.serving.media import Limits
from mmllm.serving.path_parsing import split_paths
from mmllm.serving.terminal import Chat
from mmllm.serving.terminal_lines import TypedLines
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import Message, Sample
from tests.support.senses import FILES, assembled, every_sense, video_file
from tests.support.serving import picture


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
        ("cat " * 400, "over the context of 256"),
        ("/help", "/quit"),
    ],
)
def test_faults_are_said_and_change_nothing(generator: Generator, line: str, words: str) -> None:
    chat, out = talk(generator)
    assert chat.turn(line.strip())
    assert words in " ".join(out.getvalue().split())
    assert (chat.messages, chat.items, chat.pending) == ((), (), ())


def test_a_typed_placeholder_is_text(generator: Generator) -> None:
    chat, _ = talk(generator)
    assert chat.turn("What is <image> here?")
    assert len(chat.messages) == 2 and chat.messages[0].text == r"What is \<image> here?" and not chat.items


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


class Stopper(TypedLines):
    """Says that an answer is to end after so many of its pieces."""

    def __init__(self, console: Console, after: int) -> None:
        super().__init__(console)
        self.left = after

    def stopped(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_a_stopped_answer_is_kept_as_far_as_it_came(generator: Generator) -> None:
    chat, out = talk(generator)
    chat.lines = Stopper(chat.console, 2)
    chat.turn("What?")
    whole = answer(generator, Message("user", "What?"))
    said = chat.messages[-1].text
    assert whole.startswith(said) and 0 < len(said) < len(whole) and "(stopped)" in out.getvalue()
    chat.lines = TypedLines(chat.console)
    chat.turn("And now?")
    assert chat.messages[-1].text == answer(generator, *chat.messages[:-1])


def test_ctrl_c_before_a_word_forgets_the_question_and_keeps_what_it_shows(
    generator: Generator, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    chat, _ = talk(generator)
    chat.turn(f"/image '{image}'")
    with monkeypatch.context() as patched:
        patched.setattr(generator, "stream", interrupted)
        assert chat.turn("What?")
    assert chat.messages == () and chat.items == () and len(chat.pending) == 1
    chat.turn("What?")
    assert chat.messages[0].text == "<image>\nWhat?"


def test_regenerate_draws_another_answer_to_the_same_question(generator: Generator) -> None:
    chat, out = talk(generator)
    chat.turn("/regenerate")
    assert "Nothing was answered yet" in out.getvalue() and chat.messages == ()
    chat.turn("What?")
    first = chat.messages
    chat.turn("/regenerate 0")
    assert chat.messages == first
    seen = {chat.messages[-1].text for _ in range(4) if chat.turn("/regenerate 5")}
    assert len(seen | {first[-1].text}) > 2 and chat.messages[:-1] == first[:-1]
    chat.turn("/regenerate warm")
    assert "the temperature is a number" in out.getvalue()


def test_a_saved_conversation_is_data(generator: Generator, image: Path, tmp_path: Path) -> None:
    chat, out = talk(generator)
    chat.turn(f"/save {tmp_path / 'talks.jsonl'}")
    assert not (tmp_path / "talks.jsonl").exists()
    chat.turn(f"What is in '{image}' here?")
    for _ in range(2):
        chat.turn(f"/save {tmp_path / 'talks.jsonl'}")
    rows = ChatRows(str(tmp_path / "talks.jsonl"))
    assert len(rows) == 2 and rows[1].messages == chat.messages and len(rows[1].media["image"]) == 1
    chat.turn(f"/save {tmp_path}")
    assert "cannot be written (Is a directory)" in " ".join(out.getvalue().split())


def test_another_run_goes_on_with_the_conversation(
    generator: Generator, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, out = talk(generator)
    chat.turn(f"What is in '{image}' here?")
    before = chat.messages
    chat.turn("/model /no/such/run")
    assert chat.generator is generator and chat.messages == before
    other = Chat(generator, chat.console, Limits(max_images=7), 3, "other")
    monkeypatch.setattr(terminal, "_opened", lambda run, console: other)
    chat.turn("/model runs/other")
    chat.turn("/model")
    assert (chat.limits.max_images, chat.max_new_tokens, chat.messages) == (7, 3, before)
    assert "other answers from here on." in out.getvalue() and "other answers.\n" in out.getvalue()


def test_lines_that_go_on_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["one \\", "two", '"""', "three", "", "/quit", '"""', "four"])
    console = Console(file=io.StringIO())
    monkeypatch.setattr(console, "input", lambda prompt: next(typed))
    lines = TypedLines(console)
    assert [lines.ask() for _ in range(3)] == ["one \ntwo", "three\n\n/quit", "four"]


def test_lines_typed_while_an_answer_is_written() -> None:
    ours, theirs = os.openpty()
    try:
        lines = TypedLines(Console(file=io.StringIO()), theirs)
        assert not lines.stopped()
        os.write(ours, b"and then?\n")
        assert not lines.stopped()
        os.write(ours, b"/stop\n")
        assert lines.stopped() and not lines.stopped()
        assert lines.ask() == "and then?"
    finally:
        os.close(ours)
        os.close(theirs)


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


# ---- other senses


@pytest.fixture(scope="module")
def senses() -> Generator:
    return every_sense()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each sense."""
    found = {}
    for modality, (name, data) in FILES.items():
        found[modality] = tmp_path / name
        found[modality].write_bytes(data)
    return found


def test_a_video_and_a_sound_are_shown_and_reach_the_model(senses: Generator, files: dict[str, Path]) -> None:
    chat, out = talk(senses)
    chat.turn(f"/video {files['video']}")
    lines = out.getvalue().splitlines()
    assert lines[0] == "video of 2.8 s, 48 x 32 pixels"
    assert lines[-1].split() == ["0.00", "s", "0.50", "s", "1.00", "s", "1.75", "s", "2.25", "s", "2.75", "s"]
    assert lines[1][0] == " " and lines[1][60] in "*#%@"  # from black to bright
    chat.turn(f"What is in {files['audio']} and this?")
    assert "sound of 0.5 s" in out.getvalue() and any(letter in out.getvalue() for letter in "▂▃▄▅▆▇")
    assert chat.messages[0].text == "<video>\n<audio>\nWhat is in and this?"
    media = {modality: (FILES[modality][1],) for modality in ("video", "audio")}
    text = "".join(piece.text for piece in senses.stream(Sample("x", chat.messages[:1], media), 5))
    assert chat.messages[1].text == text and [item.modality for item in chat.items] == ["video", "audio"]
    chat.turn("And now?")
    assert len(chat.messages) == 4


def test_points_and_documents_by_their_commands(senses: Generator, files: dict[str, Path]) -> None:
    chat, out = talk(senses)
    for modality in ("points", "document"):
        chat.turn(f"/{modality} {files[modality]}")
    assert "point cloud of 40 points" in out.getvalue() and "the name is carl" in out.getvalue()
    chat.turn("What?")
    assert chat.messages[0].text == "<points>\n<text>\nWhat?"


def test_a_graph_is_a_path_that_may_name_a_node(files: dict[str, Path]) -> None:
    chat, out = talk(assembled(graph=tiny_encoders.text_graph()))
    chat.turn(f"/graph {files['graph']}#2")
    assert "graph of 3 nodes and 2 edges; about node 2" in out.getvalue() and "tea 0; tea 1" in out.getvalue()
    chat.turn("What?")
    assert chat.messages[0].text == "<graph>\nWhat?" and f"{chat.items[0].media}".endswith("chain.json#2")
    chat.turn("/graph nowhere#3")
    chat.turn(f"/graph {files['graph']}#9")
    assert "nowhere is not a file or folder" in out.getvalue() and "no node 9" in out.getvalue()
    assert len(chat.items) == 1 and chat.pending == ()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.mp4", b"#EXTM3U\n", "is not a video that can be read"),
        ("a.mp4", video_file()[:100], "cannot be decoded"),
        ("a.wav", b"RIFF1234WAVE", "is not a sound that can be read"),
        ("a.npy", b"1 2", "is no point cloud that can be read"),
        ("a.txt", b"\xff\xff", "not text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(
    senses: Generator, tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    chat, out = talk(senses)
    assert chat.turn(f"What is {tmp_path / name} then?")
    assert words in " ".join(out.getvalue().split())
    assert (chat.messages, chat.items, chat.pending) == ((), (), ())


def test_help_and_refusals_follow_what_the_model_takes(
    generator: Generator, senses: Generator, files: dict[str, Path]
) -> None:
    chat, out = talk(generator)
    chat.turn("/help")
    assert "/image PATH" in out.getvalue() and "/video" not in out.getvalue()
    chat.turn(f"/video {files['video']}")
    assert "This model takes no videos; it takes text and images." in " ".join(out.getvalue().split())
    chat, out = talk(senses)
    chat.turn("/help")
    assert "/video PATH" in out.getvalue() and "show the model a point cloud (npy" in out.getvalue()
    most = chat.limits.max_files
    for _ in range(most + 1):
        chat.turn(f"/document {files['document']}")
    assert f"at most {most} documents" in " ".join(out.getvalue().split()) and len(chat.pending) == most
