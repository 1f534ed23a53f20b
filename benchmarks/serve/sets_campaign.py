"""Many requests to many sets while runs are written anew, memory is short and some names are forbidden.

Part of ``python -m benchmarks.serve sets``. Every answer is held to what its set answers by itself, in a version that
its name led to while the request was open.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.serve.set_runs import SetRuns, alone
from benchmarks.serve.sets_speed import RANKS
from mmllm.serving.access import Access
from mmllm.serving.app import load_app
from mmllm.serving.keys import KeyFile, add_key

SETS, CLIENTS, NEW, REWRITE = 24, 12, 8, 40
"""Sets, requests open at once, tokens of an answer, and answers between two runs that are written anew."""
GROUPS = (None, "a", "b")
"""Of the sets, in turn."""
QUESTIONS = ("How many red squares are there?", "What is at a1?", "Name a colour.", "Is there a circle?")
BUDGET = 10
"""Sets that there is memory for, about."""


@dataclass
class Versions:
    """What a name leads to, and led to."""

    answers: list[list[str]]
    """Of each version: to each question."""
    since: list[tuple[float, int]] = field(default_factory=list)
    """Times from which on, and the version."""
    coming: int | None = None
    """The version that is being written: from some moment of it on the name leads there."""

    def between(self, began: float, ended: float) -> set[int]:
        """Versions that the name led to at some time between."""
        started = [pair for pair in self.since if pair[0] <= began]
        later = {version for when, version in self.since if began < when <= ended}
        return {started[-1][1], *later, *([] if self.coming is None else [self.coming])}


@dataclass
class Campaign:
    """One run of it."""

    folder: Path
    seed: int = 0
    versions: dict[str, Versions] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.runs = SetRuns(self.folder)
        self.sets = self.folder / "sets"
        self.sets.mkdir()
        for number in range(SETS):
            name = f"set{number:02}"
            answers = []
            for version in (1, 0):
                self._write(name, version)
                answers.append(alone(self.sets / name, QUESTIONS, NEW))
            self.versions[name] = Versions(list(reversed(answers)), [(0.0, 0)])
        self.runs.write(self.folder / "base", 4, 999)
        self.keys = {}
        for name, groups in (("a", ["a"]), ("b", ["b"]), ("both", ["a", "b"]), ("none", [])):
            self.keys[name] = (add_key(self.folder / "keys.yaml", name, groups=groups), groups)

    def _write(self, name: str, version: int) -> None:
        number = int(name[3:])
        rank = RANKS[(number + version) % len(RANKS)]
        self.runs.write(self.sets / name, rank, 1000 * version + number, GROUPS[number % len(GROUPS)])

    async def run(self, requests: int, seconds: float) -> dict[str, Any]:
        """Ask until so many were answered or so much time has passed."""
        size = sum(file.stat().st_size for file in self.sets.rglob("learned.safetensors")) // SETS
        overrides = (f"serve.sets_memory={BUDGET * size}", "serve.set_waiting=64", "serve.rows=16")
        access = Access(keys=KeyFile(self.folder / "keys.yaml"))
        _, app = load_app(self.folder / "base", overrides, access=access, sets=self.sets)
        self.library = app.state.models.library
        began = time.monotonic()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=600) as http:
                self._left, self._until = requests, began + seconds
                tasks = [asyncio.create_task(self._client(http)) for _ in range(CLIENTS)]
                rewriting = asyncio.create_task(self._rewrite())
                await asyncio.gather(*tasks)
                rewriting.cancel()
        return {
            "requests": sum(self.found.values()),
            **{
                name: self.found[name]
                for name in ("right", "wrong", "stale", "forbidden_refused", "forbidden_answered")
            },
            "busy": self.found["429"],
            "other": {key: n for key, n in self.found.items() if key.isdigit() and key != "429"},
            "rewritten": sum(len(one.since) - 1 for one in self.versions.values()),
            "loads": self.library.loads,
            "removals": self.library.removals,
            "minutes": (time.monotonic() - began) / 60,
        }

    async def _client(self, http: httpx.AsyncClient) -> None:
        while self._left > 0 and time.monotonic() < self._until:
            self._left -= 1
            await self._ask(http)

    async def _ask(self, http: httpx.AsyncClient) -> None:
        name, question = self.random.choice(list(self.versions)), self.random.randrange(len(QUESTIONS))
        token, groups = self.keys[self.random.choice(list(self.keys))]
        group = GROUPS[int(name[3:]) % len(GROUPS)]
        body = {"model": name, "messages": [{"role": "user", "content": QUESTIONS[question]}], "max_tokens": NEW}
        began = time.monotonic()
        answer = await http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {token}"})
        ended = time.monotonic()
        allowed = group is None or group in groups
        if answer.status_code != 200:
            refused = answer.status_code == 404 and not allowed
            self.found["forbidden_refused" if refused else str(answer.status_code)] += 1
            return
        text = answer.json()["choices"][0]["message"]["content"]
        told, current = self.versions[name].answers, self.versions[name].between(began, ended)
        if not allowed:
            self.found["forbidden_answered"] += 1
        elif any(told[version][question] == text for version in current):
            self.found["right"] += 1
        else:
            self.found["stale" if any(one[question] == text for one in told) else "wrong"] += 1

    async def _rewrite(self) -> None:
        """Write a run anew with its other weights, again and again."""
        due = REWRITE
        while True:
            await asyncio.sleep(0.02)
            if sum(self.found.values()) < due:
                continue
            due += REWRITE
            name = self.random.choice(list(self.versions))
            version = 1 - self.versions[name].since[-1][1]
            self.versions[name].coming = version
            await asyncio.to_thread(self._write, name, version)
            # only now does the name lead nowhere else: what was asked before this may be of either
            self.versions[name].since.append((time.monotonic(), version))
            self.versions[name].coming = None


def campaign(requests: int, seconds: float) -> dict[str, Any]:
    """Run it in a folder of its own."""
    with TemporaryDirectory() as place:
        made = Campaign(Path(place))
        told = [one for versions in made.versions.values() for one in versions.answers]
        distinct = len({tuple(one) for one in told})
        return {
            "sets": SETS,
            "distinct_answers": f"{distinct} of {len(told)}",
            **asyncio.run(made.run(requests, seconds)),
        }
