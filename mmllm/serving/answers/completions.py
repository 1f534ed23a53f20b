"""Answers of ``/v1/completions``: choices as they come and whole, and the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmllm.serving.answers.logprobs import TokenTexts, completion_logprobs

if TYPE_CHECKING:
    from mmllm.generation.answers import Delta
    from mmllm.generation.sampling import TokenLogprob


@dataclass
class TextChoice:
    """One continuation of a request on its way."""

    index: int
    texts: TokenTexts
    logprobs: list[TokenLogprob] | None
    """Of its tokens so far, where they were asked for."""
    text: str = ""
    finish: str | None = None
    _offset: int = 0
    """Characters of its tokens so far."""

    def push(self, delta: Delta) -> dict[str, Any]:
        """Take the next piece; returns the choice of its event."""
        self.text += delta.text
        self.finish = delta.finish
        found = None
        if self.logprobs is not None:
            found = completion_logprobs(delta.logprobs, self.texts, self._offset)
            self._offset += sum(len(self.texts.text(one.token)) for one in delta.logprobs)
            self.logprobs += delta.logprobs
        return self._choice(delta.text, found)

    def body(self) -> dict[str, Any]:
        """Return the whole of it."""
        found = None if self.logprobs is None else completion_logprobs(self.logprobs, self.texts, 0)
        return self._choice(self.text, found)

    def _choice(self, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        ends = {"finish_reason": self.finish, "stop_reason": None}
        return {"index": self.index, "text": text, "logprobs": logprobs, **ends}


def text_completion(ident: str, created: int, model: str, choices: Sequence[dict[str, Any]], **more: Any) -> Any:
    """Return an answer, or an event of a stream, which has the same form."""
    head = {"id": ident, "object": "text_completion", "created": created, "model": model, "system_fingerprint": None}
    return {**head, "choices": list(choices), **more}
