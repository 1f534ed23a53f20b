"""A conversation with functions as plain messages: what is offered, what was called and what came back, as text.

The form is that of Hermes models, whatever the LLM: descriptions, calls and results stand between tags. The chat
template needs to know nothing of functions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from mmllm.generation.constraints.grammars import CLOSE, OPEN
from mmllm.messages import placeholders
from mmllm.serving.requests.chat import ChatMessage, ChatRequest
from mmllm.serving.requests.tools import Tool, ToolCall

Numbered = tuple[int, dict[str, Any]]
"""Number of a message of the request, from 0, and a message in OpenAI's form of the roles that a template knows."""


def plain_messages(request: ChatRequest, keys: Collection[str]) -> list[Numbered]:
    """Return the messages without tools: what is offered stands in the system's, results in the user's.

    ``keys``: placeholders, which are text in descriptions and results.
    """
    found: list[Numbered] = []
    for number, message in enumerate(request.messages):
        if message.role == "tool":
            part = _text(placeholders.escape(_result(message), keys))
            if number and request.messages[number - 1].role == "tool":
                found[-1][1]["content"].append(part)
            else:
                found.append((number, {"role": "user", "content": [part]}))
            continue
        parts = [part.model_dump() for part in message.content or ()]
        parts += [_text(call_text(call)) for call in message.tool_calls or ()]
        found.append((number, {"role": message.role, "content": parts}))
    if request.callable_tools:
        part = _text(placeholders.escape(offer(request.callable_tools), keys))
        if found[0][1]["role"] in ("system", "developer"):
            found[0][1]["content"].append(part)
        else:
            found.insert(0, (0, {"role": "system", "content": [part]}))
    return found


def offer(tools: Sequence[Tool]) -> str:
    """Return what the model is told of functions it may call."""
    lines = [json.dumps(tool.model_dump(exclude_none=True), ensure_ascii=False) for tool in tools]
    form = '{"name": <name of the function>, "arguments": <object with its arguments>}'
    return "\n".join(
        ["You may call these functions:", "<tools>", *lines, "</tools>", "Write each call as:", OPEN, form, CLOSE]
    )


def call_text(call: ToolCall) -> str:
    """Return a call as the model writes it."""
    try:
        arguments = json.dumps(json.loads(call.function.arguments), ensure_ascii=False)
    except (ValueError, RecursionError):  # another model's slip; it is shown what was said
        arguments = call.function.arguments
    return f'{OPEN}\n{{"name": {json.dumps(call.function.name)}, "arguments": {arguments}}}\n{CLOSE}'


def _result(message: ChatMessage) -> str:
    said = "\n".join(part.text for part in message.content or () if part.type == "text")
    return f"<tool_response>\n{said}\n</tool_response>"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
