"""What a model says, taken apart into text and calls as it comes. Nothing that it may say raises an error."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from mmllm.generation.answer_text import overlap
from mmllm.generation.constraints.grammars import CLOSE, OPEN


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    id: str
    name: str
    arguments: str
    """A text of JSON."""

    def body(self) -> dict[str, Any]:
        """Return it in OpenAI's form."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class CallReader:
    """Reads an answer that may hold calls."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self.n_calls = 0

    def push(self, text: str) -> list[str | Call]:
        """Take some more of the answer; returns texts and whole calls that are certain now, in order."""
        self._held += text
        found: list[str | Call] = []
        while True:
            # no text of JSON holds a line break, so this is its end, whatever the arguments say
            mark = f"\n{CLOSE}" if self._inside else OPEN
            before, seen, behind = self._held.partition(mark)
            if not seen:
                break
            found += self._call(before) if self._inside else [before]
            self._held, self._inside = behind, not self._inside
        if not self._inside:
            kept = overlap(self._held, OPEN)
            certain, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
            found.append(certain)
        return [one for one in found if one]

    def close(self) -> str:
        """The text still held back, now that nothing follows; a call that is not whole is left out."""
        return "" if self._inside else self._held

    def _call(self, text: str) -> list[str | Call]:
        try:
            said = json.loads(text)
            name, arguments = said["name"], said["arguments"]
        # no answer that follows the grammar gets here; RecursionError: brackets in brackets
        except (ValueError, TypeError, KeyError, RecursionError):
            return [f"{OPEN}{text}\n{CLOSE}"]
        self.n_calls += 1
        return [Call(f"call_{uuid.uuid4().hex[:24]}", str(name), json.dumps(arguments, ensure_ascii=False))]
