"""Many clients for a long time: text, pictures, clients that leave, and requests that are wrong on purpose.

``python -m benchmarks.serve traffic [--clients 64] [--minutes 30]``. Each answer is held to the one that the same
request got alone, before the others came: its text, and the log-probability of its first token, which differs between
pictures where a text does not.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.serve.hostile_media import POISON, data_url, picture
from benchmarks.serve.server_process import NAME, Server, served

PICTURES, NEW = 24, 12
"""Pictures that are asked about, and tokens of an answer."""
TEXTS = [f"What is {n} and {m}?" for n, m in ((1, 2), (3, 4), (5, 6), (7, 8), (2, 9), (4, 4))]
NEAR = 2e-3
"""How far the log-probability of a first token may be from that of the request alone; pictures are further apart."""
KEPT = 2**25
"""Bytes of keys and values, and of encoded media, that the server may keep."""
LIMIT = 600.0
"""Seconds after which a request that has no answer is lost."""
COUNTED = ("right", "of_another", "wrong", "lost", "left", "poison", "poison_wrong")
"""What becomes of requests, besides being told to wait."""
EVERY = 5.0
"""Seconds between two looks at the server's memory."""

Print = tuple[str, float]
"""Text of an answer, and log-probability of its first token."""


def body(content: Sequence[dict[str, Any]], stream: bool) -> dict[str, Any]:
    """A question for a short greedy answer."""
    message = {"role": "user", "content": list(content)}
    return {"model": NAME, "messages": [message], "max_tokens": NEW, "logprobs": True, "stream": stream}


def questions() -> list[list[dict[str, Any]]]:
    """All that is asked: texts, pictures, pairs of pictures."""
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(picture(number), "image/png")}}
        for number in range(PICTURES)
    ]
    asked = {"type": "text", "text": "What is it?"}
    return [
        *([{"type": "text", "text": text}] for text in TEXTS),
        *([part, asked] for part in parts),
        *([one, two, asked] for one, two in zip(parts, [*parts[1:], parts[0]], strict=True)),
    ]


@dataclass
class Traffic:
    """One campaign against a running server."""

    server: Server
    clients: int
    seconds: float
    seed: int = 0
    alone: list[Print] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, bytes."""
    odd: list[str] = field(default_factory=list)
    """The first few answers that are none of what they should be."""

    async def run(self) -> dict[str, Any]:
        """Ask everything alone, then with so many clients; what was found."""
        self.asked = questions()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.clients)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=LIMIT, limits=limits) as http:
            for content in self.asked:
                status, found = await self._whole(http, body(content, False))
                if found is None:
                    raise RuntimeError(f"a plain question was answered with {status}")
                self.alone.append(found)
            self.began = time.monotonic()
            watching = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._client(http, number) for number in range(self.clients)))
            watching.cancel()
            gauges = await self._gauges(http)
            drained = await self._drain(http)
        minute = min(300.0, self.seconds / 3)
        early = self._memory(minute, minute + 60)
        late = self._memory(self.seconds - 60, self.seconds)
        return {
            "clients": self.clients,
            "minutes": (time.monotonic() - self.began) / 60,
            "distinct": len({(text, round(first, 2)) for text, first in self.alone}),
            "asked": len(self.asked),
            **{name: self.found[name] for name in COUNTED},
            "told_to_wait": self.found["429"],
            "odd": self.odd,
            "gauges": gauges,
            "rss_mb": {"from_minute": minute / 60, "early": early / 1e6, "late": late / 1e6},
            "rss_growth": late / early - 1,
            "drained": drained,
        }

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        while time.monotonic() - self.began < self.seconds:
            kind = chance.random()
            if kind < 0.15:
                await self._poison(http, chance)
            elif kind < 0.3:
                await self._leave(http, chance)
            else:
                await self._ask(http, chance)

    async def _ask(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        number, stream = chance.randrange(len(self.asked)), chance.random() < 0.5
        sent = body(self.asked[number], stream)
        while True:
            try:
                status, found = await (self._streamed if stream else self._whole)(http, sent)
            except httpx.HTTPError as error:
                return self._note("lost", f"{type(error).__name__}: {error}")
            if status != 429:
                break
            self.found["429"] += 1
            await asyncio.sleep(chance.uniform(0.2, 1.0))
        if found is None:
            self._note("lost", f"status {status}")
        elif same(found, self.alone[number]):
            self.found["right"] += 1
        else:
            others = [other for other, one in enumerate(self.alone) if same(found, one)]
            self._note("of_another" if others else "wrong", f"{number}: {found} for {self.alone[number]}")

    async def _whole(self, http: httpx.AsyncClient, sent: dict[str, Any]) -> tuple[int, Print | None]:
        answer = await http.post("/v1/chat/completions", json=sent)
        if answer.status_code != 200:
            return answer.status_code, None
        choice = answer.json()["choices"][0]
        return 200, (choice["message"]["content"], choice["logprobs"]["content"][0]["logprob"])

    async def _streamed(self, http: httpx.AsyncClient, sent: dict[str, Any]) -> tuple[int, Print | None]:
        text, first, ended = "", None, False
        async with http.stream("POST", "/v1/chat/completions", json=sent) as answer:
            if answer.status_code != 200:
                return answer.status_code, None
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    choice = json.loads(line[6:])["choices"][0]
                    text += choice["delta"].get("content") or ""
                    if first is None and choice.get("logprobs"):
                        first = choice["logprobs"]["content"][0]["logprob"]
        return 200, (text, first) if ended and first is not None else None

    async def _leave(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        """Ask for a longer answer, and close the connection before, at or soon after its first piece."""
        sent = {**body(chance.choice(self.asked), True), "max_tokens": 200}
        pieces = chance.randrange(4)

        async def some() -> None:
            async with http.stream("POST", "/v1/chat/completions", json=sent) as answer:
                left = pieces
                async for _ in answer.aiter_lines():
                    left -= 1
                    if left < 0:
                        return

        # closing early is what is tried, so a time that runs out and a broken connection are as good as another end
        try:
            await asyncio.wait_for(some(), None if pieces else chance.uniform(0.0, 0.2))
        except (TimeoutError, httpx.HTTPError):
            pass
        self.found["left"] += 1

    async def _poison(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        name = chance.choice(list(POISON))
        sent, wanted = POISON[name]
        try:
            answer = await http.post("/v1/chat/completions", content=sent, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            return self._note("lost", f"{name}: {type(error).__name__}: {error}")
        if answer.status_code in (wanted, 429):
            self.found["poison"] += 1
        else:
            self._note("poison_wrong", f"{name}: {answer.status_code} for {wanted}")

    def _note(self, what: str, why: str) -> None:
        self.found[what] += 1
        if len(self.odd) < 20:
            self.odd.append(f"{what}: {why}"[:300])

    async def _watch(self) -> None:
        while True:
            self.memory.append((time.monotonic() - self.began, self.server.memory()))
            await asyncio.sleep(EVERY)

    def _memory(self, begin: float, end: float) -> float:
        return median([size for when, size in self.memory if begin <= when <= end] or [self.memory[-1][1]])

    async def _gauges(self, http: httpx.AsyncClient) -> dict[str, float]:
        """What runs and waits once all clients have gone, within ten seconds."""
        found: dict[str, float] = {}
        for _ in range(40):
            lines = (await http.get("/metrics")).text
            found = {
                name: float(value)
                for name, value in re.findall(r"^mmllm_(requests_\w+|up)\{[^}]*\} (\S+)$", lines, re.MULTILINE)
            }
            if not found["requests_running"] and not found["requests_waiting"]:
                break
            await asyncio.sleep(0.25)
        return found

    async def _drain(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """End the server by SIGTERM in the middle of an answer: whether that came whole, and the exit code."""
        sent = {**body(self.asked[0], True), "max_tokens": 60}
        lines: list[str] = []
        async with http.stream("POST", "/v1/chat/completions", json=sent) as answer:
            async for line in answer.aiter_lines():
                if not lines:
                    self.server.process.send_signal(signal.SIGTERM)
                lines.append(line)
        code = await asyncio.to_thread(self.server.process.wait, 30)
        return {"whole": "data: [DONE]" in lines and any('"finish_reason": "' in line for line in lines), "code": code}


def same(one: Print, other: Print) -> bool:
    """Whether two answers are of the same request."""
    return one[0] == other[0] and abs(one[1] - other[1]) <= NEAR


def traffic(clients: int, minutes: float) -> dict[str, Any]:
    """Run it in a folder of its own."""
    # full within the first minutes: with gigabytes to fill, memory would grow for hours as it is meant to
    words = (f"serve.rows={min(32, clients)}", f"serve.kv_memory={KEPT}", f"serve.media_memory={KEPT}")
    with TemporaryDirectory() as place, served(Path(place), *words) as server:
        return asyncio.run(Traffic(server, clients, 60 * minutes).run())
