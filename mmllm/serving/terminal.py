"""The chat in a terminal: type a question, drop a path of a media file into the line or name it with ``/image``.

``mmllm chat runs/demo`` starts it; it asks the Generator directly, no server is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from mmllm.drawing.plots import strip
from mmllm.drawing.terminal_image import draw
from mmllm.errors import MediaError, MmllmError
from mmllm.messages.openai import join
from mmllm.messages.placeholders import escape
from mmllm.modalities import MODALITIES, MODALITY_OF
from mmllm.serving.conversation import Inputs
from mmllm.serving.media import Limits, open_path
from mmllm.serving.path_parsing import path_of, split_paths
from mmllm.serving.preview import Preview, Previewer
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.checkpoints.load import Trust
    from mmllm.generation.generator import Generator

COMMANDS = {f"/{modality}": modality for modality in MODALITIES}


def chat(run: Path, overrides: Sequence[str] = (), trust: Trust | None = None, console: Console | None = None) -> None:
    """Load the last checkpoint of ``run`` and answer lines of standard input until ``/quit``, Ctrl-D or Ctrl-C.

    ``overrides`` and ``trust``: as ``checkpoints.load.load_run`` has them.
    """
    from mmllm.generation.opening import open_run

    console = console or Console()
    recipe, generator = open_run(run, overrides, trust)
    options = recipe.serve
    limits = Limits(
        max_images=options.max_images,
        max_pixels=options.max_pixels,
        max_files=options.max_files,
        max_seconds=options.max_seconds,
    )
    talk = Chat(generator, console, limits, options.max_new_tokens)
    console.print(f"[bold]{recipe.name}[/bold]: ask something. /help lists the commands.")
    talk.loop()


@dataclass(frozen=True)
class Item:
    """A media item of the conversation."""

    modality: str
    media: Any
    """The item as its encoder reads it."""


class Chat:
    """Conversation with a Generator on a console."""

    def __init__(
        self, generator: Generator, console: Console, limits: Limits | None = None, max_new_tokens: int = 512
    ) -> None:
        self.generator = generator
        self.console = console
        self.limits = limits or Limits()
        self.max_new_tokens = max_new_tokens
        self.inputs = Inputs.of(generator)
        self.previewer = Previewer(self.inputs, self.limits)
        self.messages: tuple[Message, ...] = ()
        self.items: tuple[Item, ...] = ()
        self.pending: tuple[Item, ...] = ()
        """Items named by a command that no question was asked about yet."""

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
        """Take a line: a command or a question. False when the user leaves; a fault is printed and changes nothing."""
        command, _, rest = line.partition(" ")
        try:
            if command in ("/quit", "/exit"):
                return False
            if command == "/clear":
                self.messages, self.items, self.pending = (), (), ()
                self.console.print("The conversation is forgotten.")
            elif command == "/help":
                self.console.print(self.help(), markup=False, highlight=False)
            elif command in COMMANDS:
                self.pending += self._opened([(COMMANDS[command], path_of(rest.strip()))])
            elif split_paths(line)[0].startswith("/"):
                self.console.print(f"{command} is not a command; /help lists them.", style="red", markup=False)
            elif line:
                self._question(line)
        except MmllmError as error:
            self.console.print(Text(str(error), style="red"))
        return True

    def help(self) -> str:
        """Return the list of commands, those for media as far as the model takes that modality."""
        commands = []
        for name in self.inputs.keys:
            known = MODALITIES[name]
            article = "an" if known.noun[0] in "aeiou" else "a"
            commands.append((f"/{name} PATH", f"show the model {article} {known.noun} ({', '.join(known.endings)})"))
        commands += [("/clear", "forget the conversation"), ("/help", "this list"), ("/quit", "leave (also Ctrl-D)")]
        lines = [f"{command:<15} {meaning}" for command, meaning in commands]
        if self.inputs.keys:
            lines.append("Media belong to your next question; a path inside it works too, in quotes if it has spaces.")
        return "\n".join(lines)

    def _question(self, line: str) -> None:
        text, paths = split_paths(line)
        shown = self.pending + self._opened([(MODALITY_OF[path.suffix[1:].lower()], path) for path in paths])
        if not text:
            self.pending = shown
            return
        typed = escape(text, self.inputs.processors)  # whatever is typed is text: media are attached by a command
        marks = [f"<{self.inputs.key(item.modality)}>" for item in shown]
        media: dict[str, tuple[Any, ...]] = {}
        for item in (*self.items, *shown):
            key = self.inputs.key(item.modality)
            media[key] = (*media.get(key, ()), item.media)
        sample = Sample("chat", (*self.messages, Message("user", join([*marks, typed]))), media)
        answer = self._answer(sample)
        self.messages = (*sample.messages, Message("assistant", answer))
        self.items, self.pending = (*self.items, *shown), ()

    def _answer(self, sample: Sample) -> str:
        text = ""
        # first: what is wrong with the question is raised here, before the model's line begins
        deltas = self.generator.stream(sample, self.max_new_tokens)
        self.console.print("[bold green]model>[/bold green] ", end="")
        for delta in deltas:
            text += delta.text
            self.console.print(delta.text, end="", markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        return text

    def _opened(self, named: list[tuple[str, Path]]) -> tuple[Item, ...]:
        """Read files within the limits and show each."""
        found: list[Item] = []
        for modality, path in named:
            self.inputs.key(modality)
            held = [item for item in (*self.items, *self.pending, *found) if item.modality == modality]
            most, plural = self.limits.most(modality), MODALITIES[modality].plural
            if len(held) >= most:
                raise MediaError(f"A conversation holds at most {most} {plural}; /clear begins a new one.")
            media = open_path(path, self.limits, modality)
            self.inputs.check_seconds(modality, [media], self.limits)
            self._show(modality, self.previewer.of(modality, media), media)
            found.append(Item(modality, media))
        return tuple(found)

    def _show(self, modality: str, shown: Preview, media: Any) -> None:
        """Print an image; frames in a row and their times; a waveform or the beginning of a text in characters."""
        if modality == "image":
            self.console.print(draw(media))
            return
        self.console.print(Text(shown.caption, style="dim"))
        if modality == "video":
            count = len(shown.pictures)
            cell = min(self.console.width // count, 24)
            self.console.print(draw(strip([picture for _, picture in shown.pictures]), cell * count))
            self.console.print(Text("".join(caption.ljust(cell) for caption, _ in shown.pictures), style="dim"))
        elif modality == "points":
            self.console.print(draw(shown.pictures[0][1]))
        if shown.text:
            self.console.print(shown.text, markup=False, highlight=False)
