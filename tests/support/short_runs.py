"""Short trainings of the shipped miniature recipes, through the command line in this process: data, run, losses.

Used by ``tests.recipes.test_losses``. What it takes from the project stands in the first imports and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from mmllm.cli import main as mmllm
from mmllm.miniature.__main__ import main as mini

ROOT = Path(__file__).parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes" / "mini").glob("*.yaml"))}
STEPS, LATER_STEPS = 20, 5
"""Steps of the first stage, and of each stage after it."""
BATCH = 2
DATA = (
    ("data", "world", 48),
    ("video", "video", 24),
    ("sound", "sound", 48),
    ("graph", "graph", 48),
    ("points", "points", 48),
    ("document", "document", 48),
    ("together", "together", 24),
)
"""What writes it, its folder, and its rows for training; the last one joins others before it."""
REAL = {"data/easy_vqa": "easy_vqa", "data/fsdd": "fsdd", "data/planetoid": "planetoid"}
"""Where a recipe expects real data -> its folder below ``MMLLM_TEST_DATA``."""

Losses = dict[str, dict[str, list[str]]]
"""Stage -> ``loss`` and ``extra_loss`` (where there is any) of each step, as ``float.hex`` writes them."""


def write_data(home: Path) -> None:
    """Few rows of every miniature data set below ``home``, by the project's own commands."""
    for name, folder, rows in DATA:
        command = ["data"] if name == "data" else ["sense", name]
        if mini([*command, "--out", str(home / folder), "--train", str(rows), "--test", "1"]):
            raise RuntimeError(f"the miniature data {name} could not be written")


def real_folders(name: str) -> list[str]:
    """Folders of real data that a recipe reads, as it calls them."""
    return sorted({path for path in _paths(_read(name)).values() if path in REAL})


def overrides(name: str, home: Path, real: Path | None) -> list[str]:
    """What makes a recipe short: other data folders, few steps, small batches, one checkpoint."""
    recipe = _read(name)
    found = [f"{where}={_moved(path, home, real)}" for where, path in _paths(recipe).items()]
    for number, stage in enumerate(recipe["stages"]):
        words = {"epochs": "", "steps": LATER_STEPS if number else STEPS, "batch": BATCH, "save_every": 1000, "keep": 1}
        found += [f"stages.{stage}.{word}={value}" for word, value in words.items()]
    return found


def train_short(name: str, out: Path, words: list[str], most: int | None = None) -> None:
    """Trains in this process what ``mmllm train`` would; SystemExit where it does not end well.

    ``most``: it is told to stop, as by a signal, after so many steps.
    """
    os.chdir(ROOT)
    ends = {0} if most is None else {0, 128 + signal.SIGTERM}
    if most is not None:
        _stop_after(most)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code: Any = mmllm(["train", str(RECIPES[name]), *words, "--out", str(out)])
    except SystemExit as ended:
        code = ended.code
    if code not in ends:
        raise SystemExit(code)


def _stop_after(steps: int) -> None:
    from mmllm.training import stage

    plain, written = stage.Metrics.write, []

    def write(self: stage.Metrics, row: dict[str, Any]) -> None:
        plain(self, row)
        written.append(row)
        if len(written) == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.Metrics.write = write  # type: ignore[method-assign]


def losses(out: Path) -> Losses:
    """The losses that a run wrote down."""
    found: Losses = {}
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        stage = found.setdefault(row["stage"], {"loss": [], "extra_loss": []})
        for word, values in stage.items():
            values.append(float(row[word]).hex())
    silent = float(0).hex()
    return {
        name: {word: values for word, values in stage.items() if word == "loss" or set(values) != {silent}}
        for name, stage in found.items()
    }


def digest(found: Losses) -> str:
    """sha256 over all losses of a recipe."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, str]:
    """What the last bit of a loss depends on; a GPU, where there is one, since trainings use it."""
    kernels = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "kernels": kernels, "cpu": _cpu()}


def _cpu() -> str:
    """The processor's name, and its numbers where the name is that of several (virtual machines)."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    first = info.read_text(encoding="utf-8").partition("\n\n")[0]
    words = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    return ", ".join(f"{key} {words[key]}" for key in ("model name", "cpu family", "model") if key in words)


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))


def _paths(recipe: dict[str, Any]) -> dict[str, str]:
    """Dotted place -> path, of everything that data entries read or write."""
    return dict(_entries(recipe["data"]))


def _entries(data: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for key, part in data.items():
        for word in ("path", "media", "graph"):
            if word in part:
                yield f"data.{key}.{word}", part[word]


def _moved(path: str, home: Path, real: Path | None) -> Path:
    """Where a data folder of a recipe lies for a short run."""
    if path in REAL:
        if real is None:
            raise RuntimeError(f"{path} is real data: give its folder")
        return real / REAL[path]
    return home / Path(path).relative_to("data/mini")
