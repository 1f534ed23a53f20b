"""Input of OpenAI's newer endpoints, a text or a list of items, as messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmllm.errors import shortened

Message = dict[str, Any]


def chat_messages(given: Any, instructions: Any = None) -> list[Message]:
    """Return ``input`` and ``instructions`` as messages; what they hold is checked as that of any chat.

    Raises:
        ValueError: an item or part of a kind that is not read.
    """
    found: list[Message] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*found, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise ValueError("input is a text or a list of items")
    for item in given:
        if not isinstance(item, Mapping):
            raise ValueError(f"input holds {shortened(item)}; an item is an object")
        _add(found, item)
    return found


def _add(found: list[Message], item: Mapping[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        found.append({"role": item.get("role"), "content": chat_parts(item.get("content"))})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        # calls made at once are items of their own, and one message of a chat
        if found and found[-1]["role"] == "assistant":
            found[-1].setdefault("tool_calls", []).append(call)
        else:
            found.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": chat_parts(item.get("output"))})
    else:
        raise ValueError(
            f"input holds an item of type {shortened(kind)}; message, function_call and its output are read"
        )


def chat_parts(content: Any) -> Any:
    """Return the content of an item as that of a message: a text, or parts in the form of chats."""
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    if kind == "input_image":
        if part.get("file_id") is not None or part.get("image_url") is None:
            raise ValueError("an input_image is read from its image_url, a data URL; no files are kept here")
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail")}}
    if kind == "input_file":
        if part.get("file_id") is not None or part.get("file_url") is not None:
            raise ValueError("an input_file is read from its file_data, a data URL; no files are kept or fetched here")
        return {"type": "file", "file": {"file_data": part.get("file_data"), "filename": part.get("filename") or ""}}
    return part
