"""How much a running server takes: so many clients that each ask again as soon as they have their answer.

``python -m benchmarks.serve load --url https://chat.example.org --key KEY --clients 1 8 32`` prints a line for each
number of clients. It speaks HTTP alone, so the server may be of any kind.
"""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

QUESTION = "Describe in a few sentences what there is, from left to right, and how many of each. Number {number}."
LINE = "{:>7} {:>8} {:>8} {:>9} {:>11} {:>11} {:>11} {:>11}  {}"


@dataclass
class Seen:
    """What clients saw."""

    first: list[float] = field(default_factory=list)
    """Seconds to the first piece of an answer."""
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Statuses besides 200, and broken connections."""


async def _client(http: httpx.AsyncClient, body: dict[str, Any], number: int, until: float, seen: Seen) -> None:
    count = 0
    while time.monotonic() < until:
        count += 1
        text = {"type": "text", "text": QUESTION.format(number=1000 * number + count)}
        sent = {**body, "messages": [{"role": "user", "content": [*body["messages"], text]}]}
        began, first = time.monotonic(), None
        try:
            async with http.stream("POST", "/v1/chat/completions", json=sent) as answer:
                if answer.status_code != 200:
                    seen.others[str(answer.status_code)] += 1
                    await asyncio.sleep(min(5.0, float(answer.headers.get("retry-after", 1))))
                    continue
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if first is None and any(one["delta"].get("content") for one in event.get("choices", ())):
                        first = time.monotonic() - began
                    seen.tokens += (event.get("usage") or {}).get("completion_tokens", 0)
        except httpx.HTTPError as error:
            seen.others[type(error).__name__] += 1
            continue
        seen.whole.append(time.monotonic() - began)
        seen.first.append(seen.whole[-1] if first is None else first)


async def _measure(url: str, key: str | None, body: dict[str, Any], clients: int, seconds: float) -> Seen:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    seen = Seen()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, limits=limits) as http:
        until = time.monotonic() + seconds
        await asyncio.gather(*(_client(http, body, number, until, seen) for number in range(clients)))
    return seen


def load(
    url: str,
    key: str | None,
    model: str | None,
    clients: Sequence[int],
    seconds: float,
    tokens: int,
    picture: Path | None,
) -> None:
    """Print what the server at ``url`` does with so many clients at once, one number after the other."""
    if model is None:
        answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
        answer.raise_for_status()
        model = answer.json()["data"][0]["id"]
    shown = []
    if picture is not None:
        kind = mimetypes.guess_type(picture.name)[0] or "image/png"
        file = f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
        shown = [{"type": "image_url", "image_url": {"url": file}}]
    more = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": model, "messages": shown, "max_tokens": tokens, **more}
    titles = ("clients", "answers", "tokens/s", "answers/s", "first, p50", "first, p95", "whole, p50", "whole, p95")
    print(f"{model} at {url}, {seconds:.0f} s each, answers of up to {tokens} tokens; times in seconds")
    print(LINE.format(*titles, "others"))
    for count in clients:
        began = time.monotonic()
        seen = asyncio.run(_measure(url, key, body, count, seconds))
        took = time.monotonic() - began
        times = [f"{at(values, share):.2f}" for values in (seen.first, seen.whole) for share in (50, 95)]
        others = ", ".join(f"{name}: {n}" for name, n in seen.others.items()) or "none"
        rates = (f"{seen.tokens / took:.1f}", f"{len(seen.whole) / took:.2f}")
        print(LINE.format(count, len(seen.whole), *rates, *times, others), flush=True)


def at(values: Sequence[float], share: int) -> float:
    """The value that so many per cent are below."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]
