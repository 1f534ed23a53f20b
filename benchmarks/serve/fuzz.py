"""Bodies and files that are wrong, one after the other: what each answers, and what it costs the server.

``python -m benchmarks.serve fuzz``. No answer may be a 5xx, none may take 2 CPU seconds or 200 MB.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.serve.hostile_bodies import GOOD, hostile_bodies
from benchmarks.serve.hostile_media import Part, good_media, hostile_media
from benchmarks.serve.server_process import NAME, Server, served

BODIES = 500
JSON = {"content-type": "application/json"}
SECONDS, BYTES = 2.0, 200e6
"""Most CPU time and memory of one request."""


def requests() -> Iterator[tuple[str, str, str, bytes]]:
    """Kind, name, path and body of each."""
    for path, way, data in hostile_bodies(BODIES):
        yield "bodies", f"{path} {way}", path, data
    for name, part in hostile_media():
        yield "media", name, "/v1/chat/completions", asking(part)


def asking(part: Part) -> bytes:
    """A question about a file."""
    message = {"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}
    return json.dumps({"model": NAME, "messages": [message], "max_tokens": 3}).encode()


def _answered(answer: httpx.Response) -> None:
    """RuntimeError where a request that is right is refused: then those made of it would all be refused for that."""
    if answer.status_code != 200:
        raise RuntimeError(f"a request that is right was answered with {answer.status_code}: {answer.text}")


def attack(server: Server) -> dict[str, Any]:
    """All of them against a running server."""
    found: dict[str, Any] = {}
    with httpx.Client(base_url=server.url, timeout=120) as http:
        # what the first answers of a process import and compile is not what a hostile request costs
        for path, good in GOOD.items():
            _answered(http.post(path, json=good))
        for part in good_media():
            _answered(http.post("/v1/chat/completions", content=asking(part), headers=JSON))
        for kind, name, path, data in requests():
            seen = found.setdefault(
                kind, {"n": 0, "statuses": Counter(), "faults": [], "seconds": (0.0, ""), "mb": (0.0, "")}
            )
            server.forget_peak()
            cpu, size = server.cpu(), server.memory()
            try:
                status = http.post(path, content=data, headers=JSON).status_code
            except httpx.HTTPError as error:
                status = 599
                seen["faults"].append(f"{name}: {type(error).__name__}")
            cost, grown = server.cpu() - cpu, server.memory("VmHWM") - size
            seen["n"] += 1
            seen["statuses"][str(status)] += 1
            seen["seconds"] = max(seen["seconds"], (cost, name))
            seen["mb"] = max(seen["mb"], (grown / 1e6, name))
            if status >= 500 or cost > SECONDS or grown > BYTES:
                seen["faults"].append(f"{name}: {status}, {cost:.2f} s, {grown / 1e6:.0f} MB")
        found["alive_after"] = http.get("/health").status_code == 200
    return found


def fuzz() -> dict[str, Any]:
    """Run it in a folder of its own."""
    # a good request that loses its limit of tokens would have as long an answer as the context holds, which is no fault
    with TemporaryDirectory() as place, served(Path(place), "serve.max_new_tokens=16") as server:
        return attack(server)
