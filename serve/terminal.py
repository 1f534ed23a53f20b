"""The chat in a terminal: type a question, drop an image path into the line or name it with ``/image``.

``mmllm chat runs/demo`` starts it; it asks the Generator directly, no server is needed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from PIL import Image
from rich.console import Console
from rich.text import Text

from mmllm.types import MediaError, Message, MmllmError, Sample
from serve.conversation import Inputs, join
from serve.media import EXTENSIONS, Limits, open_path
from serve.picture import draw

if TYPE_CHECKING:
    from mmllm.generate import Generator

HELP = f"""/image PATH   show the model an image ({", ".join(EXTENSIONS)}); it belongs to your next question
/clear        forget the conversation
/help         this list
/quit         leave (also Ctrl-D)
A path inside a question works too; put quotes around one with spaces."""


def chat(run: Path, console: Console | None = None) -> None:
    """Load the last checkpoint of ``run`` and answer lines of standard input until ``/quit``, Ctrl-D or Ctrl-C."""
    from mmllm.checkpoint import load_run
    from mmllm.generate import Generator

    console = console or Console()
    recipe, assembly = load_run(run)
    limits = Limits(max_images=recipe.serve.max_images, max_pixels=recipe.serve.max_pixels)
    talk = Chat(Generator(assembly), console, limits, recipe.serve.max_new_tokens)
    console.print(f"[bold]{recipe.name}[/bold]: ask something. /help lists the commands.")
    talk.loop()


class Chat:
    """One conversation with a Generator on a console."""

    def __init__(
        self, generator: Generator, console: Console, limits: Limits | None = None, max_new_tokens: int = 512
    ) -> None:
        self.generator = generator
        self.console = console
        self.limits = limits or Limits()
        self.max_new_tokens = max_new_tokens
        self.inputs = Inputs.of(generator)
        self.messages: tuple[Message, ...] = ()
        self.images: tuple[Image.Image, ...] = ()
        self.pending: tuple[Image.Image, ...] = ()
        """Named by ``/image``, not yet asked about."""

    def loop(self) -> None:
        """Read lines and answer them until the user leaves."""
        while True:
            try:
                line = self.console.input("[bold cyan]you>[/bold cyan] ")
                if not self.turn(line.strip()):
                    return
            except (EOFError, KeyboardInterrupt):
                self.console.print()
                return

    def turn(self, line: str) -> bool:
        """One line: a command or a question. False when the user leaves; a fault is printed and changes nothing."""
        command, _, rest = line.partition(" ")
        try:
            if command in ("/quit", "/exit"):
                return False
            if command == "/clear":
                self.messages, self.images, self.pending = (), (), ()
                self.console.print("The conversation is forgotten.")
            elif command == "/help":
                self.console.print(HELP, markup=False, highlight=False)
            elif command == "/image":
                self._check_room(1)
                self.pending += (self._open(_path(rest.strip())),)
            elif command.startswith("/") and not _is_image(_path(command)):
                self.console.print(f"{command} is not a command; /help lists them.", style="red", markup=False)
            elif line:
                self._question(line)
        except MmllmError as error:
            self.console.print(Text(str(error), style="red"))
        return True

    def _question(self, line: str) -> None:
        text, paths = split_paths(line)
        self._check_room(len(paths))
        images = self.pending + tuple(self._open(path) for path in paths)
        if not text:
            self.pending = images
            return
        for placeholder in self.inputs.placeholders:
            if placeholder in text:
                raise MmllmError(f"{placeholder} marks the place of media; write it another way, and use /image.")
        asked = Message("user", join([f"<{self.inputs.image}>"] * len(images) + [text]))
        held = self.images + images
        media = {self.inputs.image: held} if self.inputs.image is not None and held else {}
        sample = Sample("chat", (*self.messages, asked), media)
        answer = self._answer(sample)
        self.messages = (*sample.messages, Message("assistant", answer))
        self.images, self.pending = held, ()

    def _answer(self, sample: Sample) -> str:
        text = ""
        pieces = self.generator.stream(sample, self.max_new_tokens)
        self.console.print("[bold green]model>[/bold green] ", end="")
        for piece in pieces:
            text += piece.text
            self.console.print(piece.text, end="", markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        return text

    def _check_room(self, more: int) -> None:
        most = self.limits.max_images
        if more and len(self.images) + len(self.pending) + more > most:
            raise MediaError(f"A conversation holds at most {most} images; /clear begins a new one.")

    def _open(self, path: Path) -> Image.Image:
        """Read an image within the limits and draw it."""
        if self.inputs.image is None:
            raise MediaError("This model takes no images; ask in text only.")
        if len(self.images) + len(self.pending) >= self.limits.max_images:
            raise MediaError(
                f"The conversation holds {self.limits.max_images} images already; /clear begins a new one."
            )
        image = open_path(path, self.limits)
        self.console.print(draw(image))
        return image


def split_paths(line: str) -> tuple[str, list[Path]]:
    """The question without the image files dropped into it, and those files; other words stay as they are."""
    paths: list[Path] = []

    def take(match: re.Match[str]) -> str:
        word = match.group(0)
        for said in (word, word.rstrip("?!.,;:")):
            path = _path(said)
            if _is_image(path):
                paths.append(path)
                return word.removeprefix(said)
        return word

    # a quote inside a word is an apostrophe, so quotes count only where a word begins
    text = re.sub(r"(?<!\S)(?:'[^']*'|\"[^\"]*\"|(?:\\.|[^\s\\])+)", take, line)
    return (" ".join(text.split()) if paths else text), paths


def _path(word: str) -> Path:
    """What a terminal inserts for a dropped file: quoted, with escaped spaces, or as a file:// address."""
    try:
        words = shlex.split(word)
    except ValueError:
        words = [word]
    plain = words[0] if len(words) == 1 else word
    if plain.startswith("file://"):
        plain = unquote(urlparse(plain).path)
    return Path(plain).expanduser()


def _is_image(path: Path) -> bool:
    """Whether a word of a question is meant as an image: the ending of one, and a file of that name."""
    return path.suffix.lower().removeprefix(".") in EXTENSIONS and path.is_file()
