"""Answers of ``/v1/responses``: items as they come, each event of a stream numbered, and the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmllm.serving.answers.chat import ChatChoice
from mmllm.serving.answers.logprobs import TokenTexts, chat_logprobs
from mmllm.serving.requests.responses import ResponseRequest, flat_choice, flat_format, flat_tool
from mmllm.serving.tools.parsing import Call

if TYPE_CHECKING:
    from mmllm.generation.answers import Delta

Event = dict[str, Any]


@dataclass
class ResponseAnswer:
    """One response on its way: what was said and called becomes items in its order."""

    ident: str
    created: int
    body: ResponseRequest
    model: str
    choice: ChatChoice
    texts: TokenTexts
    items: list[Event] = field(default_factory=list)
    _n_events: int = 0

    # ---- events

    def begin(self) -> list[Event]:
        """Return the events before anything is said."""
        head = self.whole("in_progress", None)
        return [self._event("created", response=head), self._event("in_progress", response=head)]

    def push(self, delta: Delta) -> Iterator[Event]:
        """Take the next piece; yields its events."""
        logprobs = self._logprobs(delta)
        for one in self.choice.push(delta):
            if isinstance(one, Call):
                yield from self._close("completed")
                yield from self._call(one)
                continue
            if not self._is_open:
                yield from self._open()
            item, number = self.items[-1], len(self.items) - 1
            part = item["content"][0]
            part["text"] += one
            place = {"item_id": item["id"], "output_index": number, "content_index": 0}
            yield self._event("output_text.delta", **place, delta=one, logprobs=logprobs)
            logprobs = []
        if self.choice.finish is not None:
            if not self.items:  # it said nothing
                yield from self._open()
            yield from self._close("incomplete" if self.choice.finish == "length" else "completed")

    def end(self, used: dict[str, Any]) -> Event:
        """Return the last event, which holds the whole response."""
        cut = self.choice.finish == "length"
        return self._event("incomplete" if cut else "completed", response=self.finished(used))

    def _event(self, kind: str, **more: Any) -> Event:
        self._n_events += 1
        return {"type": f"response.{kind}", "sequence_number": self._n_events - 1, **more}

    @property
    def _is_open(self) -> bool:
        return bool(self.items) and self.items[-1]["status"] == "in_progress"

    def _open(self) -> Iterator[Event]:
        """Begin a message."""
        number = len(self.items)
        ident = f"msg_{self.ident.removeprefix('resp_')}_{number}"
        item: Event = {"id": ident, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        yield self._event("output_item.added", output_index=number, item=dict(item))
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        place = {"item_id": ident, "output_index": number, "content_index": 0}
        yield self._event("content_part.added", **place, part=dict(part))
        self.items.append({**item, "content": [part]})

    def _close(self, status: str) -> Iterator[Event]:
        """End the message that is open."""
        if not self._is_open:
            return
        item, number = self.items[-1], len(self.items) - 1
        (part,) = item["content"]
        item["status"] = status
        place = {"item_id": item["id"], "output_index": number, "content_index": 0}
        yield self._event("output_text.done", **place, text=part["text"], logprobs=[])
        yield self._event("content_part.done", **place, part=part)
        yield self._event("output_item.done", output_index=number, item=item)

    def _call(self, call: Call) -> Iterator[Event]:
        number = len(self.items)
        ident = f"fc_{call.id.removeprefix('call_')}"
        item = {"id": ident, "type": "function_call", "call_id": call.id, "name": call.name}
        done = {**item, "arguments": call.arguments, "status": "completed"}
        self.items.append(done)
        place = {"item_id": ident, "output_index": number}
        added = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("output_item.added", output_index=number, item=added)
        yield self._event("function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        yield self._event("output_item.done", output_index=number, item=done)

    def _logprobs(self, delta: Delta) -> list[Any]:
        if self.choice.logprobs is None:
            return []
        found: list[Any] = chat_logprobs(delta.logprobs, self.texts)["content"]
        return found

    # ---- the whole

    def finished(self, used: dict[str, Any]) -> dict[str, Any]:
        """Return the whole response, given the token counts of a chat."""
        if self.choice.logprobs is not None:
            message = next((item for item in self.items if item["type"] == "message"), None)
            if message is not None:
                message["content"][0]["logprobs"] = chat_logprobs(self.choice.logprobs, self.texts)["content"]
        cached = used["prompt_tokens_details"]["cached_tokens"]
        usage = {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }
        return self.whole("incomplete" if self.choice.finish == "length" else "completed", usage)

    def whole(self, status: str, usage: dict[str, Any] | None) -> dict[str, Any]:
        """Return the response as it stands."""
        body, chat = self.body, self.body.chat
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        asked = {
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": chat.temperature or 0.0,
            "top_p": 1.0 if chat.top_p is None else chat.top_p,
            "text": {"format": flat_format(chat.response_format)},
            "tools": [flat_tool(tool) for tool in chat.tools or ()],
            "tool_choice": flat_choice(chat.tool_choice),
            "parallel_tool_calls": chat.parallel_tool_calls is not False,
            "metadata": body.metadata or {},
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
        }
        head = {"id": self.ident, "object": "response", "created_at": self.created, "model": self.model}
        state = {"status": status, "error": None, "incomplete_details": cut, "output": list(self.items)}
        return {**head, **state, **asked, "usage": usage}
