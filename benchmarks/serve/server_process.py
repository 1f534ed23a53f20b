"""A run of three senses with drawn weights over the miniature parts, and `mmllm serve` around it in its own process.

The measurements that load the server or attack it use it: memory and CPU time are the server's alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from benchmarks.serve.set_runs import CAPTIONS, LLM
from mmllm.generation.model import Model
from mmllm.model.build import build
from mmllm.recipe.load import load_recipe

NAME = "three_senses"
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 300.0
"""Seconds that a server has to start."""


def write_run(folder: Path) -> Path:
    """A run whose model sees, hears and watches: what it says is noise, but another noise for each item."""
    mini = Path(LLM).resolve().parent
    tower = {"type": "hf_vision", "model": str(mini / "vit"), "layers": [-1]}
    words = {
        "name": NAME,
        "llm": {"path": str(mini / "lm"), "dtype": "float32", "context": 512},
        "encoders": {
            "image": tower,
            "video": {"type": "frames", "image": tower, "frames": 8},
            "audio": {"type": "hf_audio", "model": str(mini / "audio"), "layers": [-1], "max_seconds": 10},
        },
        "connectors": {
            "image": {"type": "pool", "from": "image", "grid": [4, 4], "depth": 2, "norm": True},
            "video": {"type": "pool", "from": "video", "grid": [8, 4, 4], "depth": 2, "norm": True},
            "audio": {"type": "pool", "from": "audio", "stride": [25], "depth": 2, "norm": True},
        },
        "data": {"rows": {"type": "chat_jsonl", "path": str(Path(CAPTIONS).resolve())}},
        "stages": {"see": {"train": {"connectors.image": 1.0e-3}, "data": {"rows": 1.0}, "steps": 1, "batch": 1}},
    }
    file = folder / f"{NAME}.yaml"
    file.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
    recipe = load_recipe(file)
    model = build(recipe, "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.connectors.parameters():
            weight.normal_(std=0.3, generator=generator)
    Model(model, recipe).save_pretrained(folder / "run")
    return folder / "run"


@dataclass
class Server:
    """The process, and what the kernel says of it and of those it started."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def _pids(self) -> list[int]:
        """It and its descendants."""
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    left += [int(word) for word in task.read_text().split()]
        return found

    def memory(self, word: str = "VmRSS") -> int:
        """Bytes of all of them: ``VmRSS`` now, ``VmHWM`` at most since :meth:`forget_peak`."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                total += 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{word}:"))
        return total

    def forget_peak(self) -> None:
        """Let ``VmHWM`` begin anew."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """CPU seconds of all of them, of those that have ended too."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                # behind the name, which may hold anything: fields 14 to 17 are user and system time, own and children's
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / TICKS


@contextlib.contextmanager
def served(folder: Path, *words: str) -> Iterator[Server]:
    """Serve a run that is written into ``folder``; ``words``: of the command line."""
    run, log = write_run(folder), folder / "log"
    command = [sys.executable, "-m", "mmllm", "serve", str(run), "--port", "0", *words]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(rf"{NAME} is at (http://[\d.:]+)/v1", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield Server(process, found[1], log)
    finally:
        process.kill()
        process.wait()
