"""Answers of ``/v1/chat/completions``: choices as they come, whole ones, and the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmllm.serving.answers.logprobs import TokenTexts, chat_logprobs
from mmllm.serving.tools.parsing import Call, CallReader

if TYPE_CHECKING:
    from mmllm.generation.answers import Delta
    from mmllm.generation.sampling import TokenLogprob


@dataclass
class ChatChoice:
    """One answer of a request on its way."""

    index: int
    calls: CallReader | None
    """Reads calls out of it, where functions are offered."""
    is_json: bool = False
    """Whether it has to be JSON as a whole."""
    logprobs: list[TokenLogprob] | None = None
    """Of its tokens so far, where they were asked for."""
    text: str = ""
    called: list[Call] = field(default_factory=list)
    finish: str | None = None
    last: Delta | None = None
    tags: list[dict[str, Any]] | None = None
    """Tasks and places that it names, with what tools of the server made of them; None: it has no tools."""

    def push(self, delta: Delta) -> list[str | Call]:
        """Take the next piece; returns the texts and calls that it brings."""
        self.last = delta
        if self.logprobs is not None:
            self.logprobs += delta.logprobs
        found: list[str | Call] = [delta.text] if delta.text else []
        if self.calls is not None:
            found = self.calls.push(delta.text)
            rest = self.calls.close() if delta.finish is not None else ""
            found += [rest] if rest else []
        for one in found:
            if isinstance(one, Call):
                self.called.append(one)
            else:
                self.text += one
        if delta.finish is not None:
            self.finish = "tool_calls" if self.called and delta.finish == "stop" else delta.finish
        return found

    @property
    def stop_reason(self) -> str | None:
        """Why it is not what was asked for: JSON that the limit of tokens cut (vLLM's field beside the reason)."""
        return "incomplete_json" if self.is_json and self.finish == "length" else None

    def body(self, texts: TokenTexts) -> dict[str, Any]:
        """Return the whole of it."""
        content = self.text if self.text or not self.called else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.called:
            message["tool_calls"] = [call.body() for call in self.called]
        if self.tags is not None:
            message["tags"] = self.tags
        logprobs = None if self.logprobs is None else chat_logprobs(self.logprobs, texts)
        ends = {"finish_reason": self.finish, "stop_reason": self.stop_reason}
        return {"index": self.index, "message": message, "logprobs": logprobs, **ends}


def changes(found: Sequence[str | Call], n_before: int) -> list[dict[str, Any]]:
    """Return what a stream says of texts and calls, ``n_before`` calls having come before them."""
    said: list[dict[str, Any]] = []
    for one in found:
        if isinstance(one, Call):
            said.append({"tool_calls": [{"index": n_before, **one.body()}]})
            n_before += 1
        else:
            said.append({"content": one})
    return said


def completion(ident: str, created: int, model: str, choices: Sequence[dict[str, Any]], used: dict[str, Any]) -> Any:
    """Return the answer to a request that does not stream."""
    head = {"id": ident, "object": "chat.completion", "created": created, "model": model}
    return {**head, "system_fingerprint": None, "choices": list(choices), "usage": used}


def chunk(ident: str, created: int, model: str, choice: dict[str, Any] | None) -> dict[str, Any]:
    """Return one event of a stream; None: the chunk without choices that carries the usage."""
    head: dict[str, Any] = {"id": ident, "object": "chat.completion.chunk", "created": created, "model": model}
    return {**head, "system_fingerprint": None, "choices": [] if choice is None else [choice]}


def part(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return one choice of an event that goes on."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def end(choice: ChatChoice) -> dict[str, Any]:
    """Return the choice of the event that ends it."""
    ends = {"finish_reason": choice.finish, "stop_reason": choice.stop_reason}
    return {"index": choice.index, "delta": {}, "logprobs": None, **ends}
