"""Bodies of requests that are wrong in some way, made from a seed: for ``python -m benchmarks.serve fuzz``."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from benchmarks.serve.hostile_media import data_url, picture
from benchmarks.serve.server_process import NAME

TEXT = [{"role": "user", "content": "What is it?"}]
SHOWN = {"type": "image_url", "image_url": {"url": data_url(picture(0), "image/png")}}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": NAME,
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [SHOWN, {"type": "text", "text": "What is it?"}]},
        ],
        "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "n": 2,
        "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1.0}, "presence_penalty": 0.1, "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        },
    },
    "/v1/completions": {
        "model": NAME, "prompt": ["One", "Two"], "max_tokens": 3, "logprobs": 1, "echo": False, "stop": ["x"],
    },
    "/v1/responses": {
        "model": NAME, "input": [{"role": "user", "content": "Hi"}], "instructions": "Go.", "max_output_tokens": 3,
    },
    "/v1/decisions": {
        "model": NAME,
        "input": TEXT,
        "questions": [
            {"type": "predicate", "instructions": "It is red."},
            {"type": "choice", "instructions": "Which?", "choices": [{"value": "red"}, {"value": "blue"}]},
        ],
    },
    "/v1/embeddings": {"model": NAME, "input": ["One", "Two"]},
    "/tokenize": {"model": NAME, "messages": TEXT},
    "/preview": {"part": SHOWN},
}  # fmt: skip
"""Path -> a body that is answered."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


def _odd() -> list[Any]:
    """Values that stand where others are expected."""
    return [
        None, True, -1, 0, 2**63, -(2**70), 1e308, 1e-300, "", "x" * 20_000, "\0", "\ud800", "\u202e🙂" * 500, [], {},
        [[]], [None] * 2000, {"": ""}, {str(n): n for n in range(2000)}, _deep(40), "data:image/png;base64,", TOOLS,
        [TEXT] * 3, "file:///etc/passwd", "http://127.0.0.1:1/", {"type": "text"}, {"$ref": "#"},
        {"pattern": "(a*)*" * 50},
    ]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def _set(body: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        body = body[key]
    body[path[-1]] = value


def _drop(body: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        body = body[key]
    del body[path[-1]]


def _raw(body: Any, chance: random.Random) -> tuple[str, bytes]:
    """The body as bytes that are no JSON, or no text, or are twice what they should be."""
    text = json.dumps(body).encode()
    place = chance.randrange(1, len(text))
    ways = {
        "cut": text[:place],
        "a byte more": text[:place] + chance.randbytes(1) + text[place:],
        "turned": text[:place] + bytes([text[place] ^ 0x20]) + text[place + 1 :],
        "no UTF-8": text[:place] + b"\xff\xfe" + text[place:],
        "NaN": text.replace(b"3", b"NaN"),
        "twice": text + text,
        "a key twice": b'{"max_tokens": 1, ' + text[1:],
        "UTF-16": json.dumps(body).encode("utf-16"),
        "empty": b"",
        "5,000 brackets": b"[" * 5000,
        "a number of 10,000 digits": text.replace(b"3", b"9" * 10_000, 1),
    }
    name = chance.choice(list(ways))
    return name, ways[name]


def hostile_bodies(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """So many bodies: path, what was done, bytes. Some may still be good; each path has its share."""
    chance = random.Random(seed)
    for number in range(count):
        path = list(GOOD)[number % len(GOOD)]
        body = copy.deepcopy(GOOD[path])
        way = chance.choice(("value", "value", "values", "gone", "more", "raw", "long"))
        if way == "raw":
            name, data = _raw(body, chance)
            yield path, name, data
            continue
        if way == "long":
            text = "ab " * chance.choice((1000, 100_000, 1_000_000))
            body[chance.choice([key for key in ("messages", "prompt", "input", "part") if key in body])] = (
                chance.choice((text, [{"role": "user", "content": text}], [text] * 3))
            )
        for _ in range({"values": 3}.get(way, 1)):
            place = chance.choice(list(_places(body)))
            if way in ("value", "values"):
                _set(body, place, copy.deepcopy(chance.choice(_odd())))
            elif way == "gone":
                _drop(body, place)
            elif way == "more":
                body[chance.choice(("tools", "tool_choice", "guided_json", "best_of", "user", "x" * 300))] = (
                    copy.deepcopy(chance.choice(_odd()))
                )
        yield path, way, json.dumps(body).encode("utf-8", "surrogatepass")
