"""A conversation as the page has it: questions with their files, and to each the answers of all models asked."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.page.uploads import Upload

MAX_TURNS = 40
"""Questions that a request holds, the last ones."""
TITLE = 48
"""Letters of a conversation's title."""


def new_id() -> str:
    """Return a name for something that has none."""
    return uuid.uuid4().hex[:12]


@dataclass
class Reply:
    """One model's answer to a question."""

    model: str
    address: str
    """Of its server."""
    text: str = ""
    note: str = ""
    """Time, tokens and speed."""
    fault: str = ""
    """What went wrong; there may be a part of the answer."""
    tags: list[dict[str, Any]] = field(default_factory=list)
    """What tools made of it, as the server gave it."""


@dataclass
class Turn:
    """A question, and the answers to it side by side."""

    question: str
    uploads: tuple[Upload, ...] = ()
    replies: list[Reply] = field(default_factory=list)
    fault: str = ""
    """Why it was not sent."""
    ident: str = field(default_factory=new_id)

    @property
    def answered(self) -> bool:
        """Return whether there is anything that a further question may build on."""
        return any(reply.text for reply in self.replies)

    def reply(self, column: int) -> Reply | None:
        """Return the answer in a column; of a question that was asked one model alone, that one's."""
        found = self.replies[column : column + 1] or self.replies[:1]
        return found[0] if found else None

    def message(self) -> dict[str, Any]:
        """Return the question as the API takes it, media first."""
        if not self.uploads:
            return {"role": "user", "content": self.question}
        parts = [upload.part for upload in self.uploads]
        text = [{"type": "text", "text": self.question}] if self.question else []
        return {"role": "user", "content": [*parts, *text]}


@dataclass
class Conversation:
    """Turns in order."""

    turns: list[Turn] = field(default_factory=list)
    ident: str = field(default_factory=new_id)
    changed: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @property
    def title(self) -> str:
        """Return its first words."""
        for turn in self.turns:
            words = " ".join(turn.question.split()) or ", ".join(upload.name for upload in turn.uploads)
            if words:
                return words if len(words) <= TITLE else f"{words[: TITLE - 1]}…"
        return "New chat"

    @property
    def uploads(self) -> list[Upload]:
        """Return the files of all questions."""
        return [upload for turn in self.turns for upload in turn.uploads]

    def find(self, ident: str) -> Turn | None:
        """Return the turn of a name."""
        return next((turn for turn in self.turns if turn.ident == ident), None)

    def messages(self, turn: Turn, column: int) -> list[dict[str, Any]]:
        """Return what a model is asked with ``turn``: it, and before it what that column's model said itself.

        Questions without an answer are left out: a model reads a conversation in which each was answered.
        """
        before = self.turns[: self.turns.index(turn)]
        told: list[dict[str, Any]] = []
        for one in before[-MAX_TURNS + 1 :]:
            reply = one.reply(column)
            if reply is not None and reply.text:
                told += [one.message(), {"role": "assistant", "content": reply.text}]
        return [*told, turn.message()]

    def cut_behind(self, turn: Turn) -> None:
        """Forget what follows a turn."""
        del self.turns[self.turns.index(turn) + 1 :]

    def pictures(self, turn: Turn) -> Sequence[Upload]:
        """Return the pictures that an answer to ``turn`` is about: its own, or else those shown last before it."""
        for one in reversed(self.turns[: self.turns.index(turn) + 1]):
            found = [upload for upload in one.uploads if upload.modality == "image"]
            if found:
                return found
        return []
