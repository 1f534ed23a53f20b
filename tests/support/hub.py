"""A stand-in of the Hugging Face hub on this machine: makes repositories and takes commits, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest


class Hub:
    """What it was told."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False

    def save(self, folder: Path) -> Path:
        """The committed files as somebody who downloads them has them."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.refuses:
                self._give(403, {"error": "no"})
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                name = f"{hub.made[-1].get('organization')}/{hub.made[-1]['name']}"
                self._give(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
            elif self.path == "/api/validate-yaml":
                self._give(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                kept = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
                self._give(200, {"files": kept})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._give(
                    200,
                    {
                        "commitUrl": f"http://{self.headers['Host']}/user/name/commit/{'1' * 40}",
                        "commitOid": "1" * 40,
                        "success": True,
                    },
                )
            else:
                self._give(404, {"error": self.path})

        def do_GET(self) -> None:
            self._give(200, {"sha": "0" * 40, "id": "user/name", "siblings": [], "type": "user", "name": "user"})

        def _give(self, code: int, words: dict[str, Any]) -> None:
            text = json.dumps(words).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """While open, huggingface_hub in this process asks this hub."""
    from huggingface_hub import constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
