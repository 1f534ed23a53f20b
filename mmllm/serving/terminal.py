"""The chat in a terminal: type a question, drop a path of a media file into the line or name it with ``/image``.

``mmllm chat runs/demo`` starts it; it asks the Generator directly, no server is needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
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
from mmllm.serving.terminal_lines import TypedLines
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.checkpoints.load import Trust
    from mmllm.generation.generator import Generator

COMMANDS = {f"/{modality}": modality for modality in MODALITIES}
AGAIN = 0.7
"""Temperature of ``/regenerate``: the likeliest answer was there already."""


def chat(run: Path, overrides: Sequence[str] = (), trust: Trust | None = None, console: Console | None = None) -> None:
    """Load the last checkpoint of ``run`` and answer lines of standard input until ``/quit``, Ctrl-D or Ctrl-C.

    Ctrl-C while an answer is written ends the answer. ``overrides`` and ``trust``: as ``checkpoints.load.load_run`` has
    them, of ``run``.
    """
    console = console or Console()
    talk = _opened(run, console, overrides, trust)
    console.print(f"[bold]{talk.name}[/bold]: ask something. /help lists the commands.")
    talk.loop(TypedLines(console, sys.stdin.fileno() if sys.stdin.isatty() else None))


def _opened(run: Path, console: Console, overrides: Sequence[str] = (), trust: Trust | None = None) -> Chat:
    """A conversation with a run, of which nothing is said."""
    from mmllm.generation.opening import open_run

    recipe, generator = open_run(run, overrides, trust)
    return Chat(generator, console, Limits.of(recipe.serve), recipe.serve.max_new_tokens, recipe.name)


@dataclass(frozen=True)
class Item:
    """A media item of the conversation."""

    modality: str
    media: Any
    """The item as its encoder reads it."""
    path: Path
    """Where it was read."""


class Chat:
    """Conversation with a Generator on a console."""

    def __init__(
        self,
        generator: Generator,
        console: Console,
        limits: Limits | None = None,
        max_new_tokens: int = 512,
        name: str = "the model",
    ) -> None:
        self.generator, self.name = generator, name
        self.console = console
        self.limits = limits or Limits()
        self.max_new_tokens = max_new_tokens
        self.inputs = Inputs.of(generator)
        self.previewer = Previewer(self.inputs, self.limits)
        self.messages: tuple[Message, ...] = ()
        self.items: tuple[Item, ...] = ()
        self.pending: tuple[Item, ...] = ()
        """Items named by a command that no question was asked about yet."""
        self.lines = TypedLines(console)

    def loop(self, lines: TypedLines | None = None) -> None:
        """Read lines and answer them until the user leaves."""
        self.lines = lines or self.lines
        while True:
            try:
                if not self.turn(self.lines.ask().strip()):
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
            elif command == "/regenerate":
                self._regenerate(rest.strip())
            elif command == "/save":
                self._save(rest.strip())
            elif command == "/model":
                self._change_model(rest.strip())
            elif command == "/stop":
                self.console.print("No answer is being written.")
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
        commands += [
            ("/stop", "while an answer is written: end it (also Ctrl-C)"),
            ("/regenerate [T]", f"another answer, drawn at temperature T (default {AGAIN})"),
            ("/save FILE", "add the conversation to a file of JSON lines, which `data:` of a recipe reads"),
            ("/model [RUN]", "go on with another run; alone: which one answers"),
            ("/clear", "forget the conversation"),
            ("/help", "this list"),
            ("/quit", "leave (also Ctrl-D)"),
        ]
        lines = [f"{command:<15} {meaning}" for command, meaning in commands]
        if self.inputs.keys:
            lines.append("Media belong to your next question; a path inside it works too, in quotes if it has spaces.")
        lines.append(
            'A line that ends in \\ goes on in the next; """ on a line of its own begins and ends a longer text.'
        )
        return "\n".join(lines)

    def _question(self, line: str) -> None:
        text, paths = split_paths(line)
        shown = self.pending + self._opened([(MODALITY_OF[path.suffix[1:].lower()], path) for path in paths])
        if not text:
            self.pending = shown
            return
        typed = escape(text, self.inputs.processors)  # whatever is typed is text: media are attached by a command
        marks = [f"<{self.inputs.key(item.modality)}>" for item in shown]
        messages = (*self.messages, Message("user", join([*marks, typed])))
        # what the question shows belongs to the next one if nothing is said to this
        self.pending = shown
        answer = self._answer(messages, (*self.items, *shown))
        if answer is not None:
            self.messages = (*messages, Message("assistant", answer))
            self.items, self.pending = (*self.items, *shown), ()

    def _regenerate(self, temperature: str) -> None:
        """Draw another answer to the last question."""
        if not self.messages:
            raise MmllmError("Nothing was answered yet, so there is nothing to answer anew.")
        try:
            warm = float(temperature) if temperature else AGAIN
        except ValueError as error:
            raise MmllmError(f"/regenerate {temperature}: the temperature is a number, such as {AGAIN}.") from error
        answer = self._answer(self.messages[:-1], self.items, warm)
        if answer is not None:
            self.messages = (*self.messages[:-1], Message("assistant", answer))

    def _save(self, name: str) -> None:
        """Add the conversation to a file, as a row that a recipe's data may hold."""
        if not name or not self.messages:
            raise MmllmError("/save FILE adds a conversation to a file; name one, and ask something before.")
        file = path_of(name)
        shown: dict[str, list[str]] = {}
        for item in self.items:
            where = item.path if item.path.is_absolute() else Path.cwd() / item.path
            shown.setdefault(self.inputs.key(item.modality), []).append(str(where))
        row = {"messages": [{"role": one.role, "content": one.text} for one in self.messages], **shown}
        try:
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise MmllmError(f"{file} cannot be written ({error.strerror}).") from error
        self.console.print(f"Added to {file}.", markup=False)

    def _change_model(self, name: str) -> None:
        """Go on with another run, which has to take what was shown."""
        if not name:
            self.console.print(f"{self.name} answers.", markup=False)
            return
        other = _opened(path_of(name), self.console)
        for item in (*self.items, *self.pending):
            if other.inputs.key(item.modality) != self.inputs.key(item.modality):
                raise MmllmError(f"{other.name} has another placeholder for a {item.modality}; /clear, then /model.")
        self.generator, self.inputs, self.previewer = other.generator, other.inputs, other.previewer
        self.limits, self.max_new_tokens, self.name = other.limits, other.max_new_tokens, other.name
        self.console.print(f"{self.name} answers from here on.", markup=False)

    def _answer(self, messages: tuple[Message, ...], items: tuple[Item, ...], temperature: float = 0.0) -> str | None:
        """Write an answer as it comes; what there is of it where it is stopped, None before the first word."""
        media: dict[str, tuple[Any, ...]] = {}
        for item in items:
            key = self.inputs.key(item.modality)
            media[key] = (*media.get(key, ()), item.media)
        text, stopped = "", False
        # first: what is wrong with the question is raised here, before the model's line begins
        deltas: Any = self.generator.stream(Sample("chat", messages, media), self.max_new_tokens, temperature)
        self.console.print("[bold green]model>[/bold green] ", end="")
        with closing(deltas):  # what is not asked for any more is not computed
            try:
                for delta in deltas:
                    text += delta.text
                    self.console.print(delta.text, end="", markup=False, highlight=False, soft_wrap=True)
                    stopped = delta.finish is None and self.lines.stopped()
                    if stopped:
                        break
            except KeyboardInterrupt:
                stopped = True
                # the interrupted step may have left half of what it keeps for the next question
                self.generator.forget()
        self.console.print(" [dim](stopped)[/dim]" if stopped else "")
        return None if stopped and not text else text

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
            found.append(Item(modality, media, path))
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
