"""What is typed at the terminal chat: questions of several lines, and lines while an answer is being written."""

from __future__ import annotations

import os
import select
from collections import deque

from rich.console import Console

PROMPT, MORE = "[bold cyan]you>[/bold cyan] ", "[cyan]...>[/cyan] "
BLOCK = '"""'
"""On a line of its own it begins a text of several lines, and ends one."""


class TypedLines:
    """Lines of the console's input. One that ends in a backslash goes on in the next."""

    def __init__(self, console: Console, terminal: int | None = None) -> None:
        """``terminal``: file descriptor of a terminal, which is looked at while answers run; None: it never is."""
        self.console, self._terminal = console, terminal
        self._typed: deque[str] = deque()

    def ask(self) -> str:
        """Wait for a text, which may have several lines; EOFError at the end of the input."""
        line = self._next(PROMPT)
        if line.strip() == BLOCK:
            return "\n".join(iter(lambda: self._next(MORE), BLOCK))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._next(MORE))
        return "\n".join(lines)

    def stopped(self) -> bool:
        """Whether ``/stop`` was typed by now. Other lines wait: they are asked next."""
        if self._terminal is not None and select.select([self._terminal], [], [], 0)[0]:
            # not by sys.stdin, whose buffer `input` does not look into; a terminal gives whole lines
            read = os.read(self._terminal, 1 << 16).decode(errors="replace")
            self._typed.extend(read.splitlines())
        if "/stop" not in self._typed:
            return False
        self._typed.remove("/stop")
        return True

    def _next(self, prompt: str) -> str:
        if self._typed:
            return self._typed.popleft()
        return self.console.input(prompt)
