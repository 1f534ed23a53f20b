"""A tiny run for the training tests: recipe, frozen parts and data in a folder, and the processes that train it.

Use: ``recipe = tiny_recipe(folder)``, then ``train_here(recipe, out)`` or ``start(train_here, recipe, out)`` (a process
of its own from a server that has torch and DeepSpeed loaded: it starts at once and may be killed).
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

STAGES = {
    "align": {"train": {"connectors.image": 3.0e-3}, "data": {"pictures": 1.0, "texts": 1.0}, "steps": 4, "batch": 4},
    "instruct": {
        "train": {"connectors.image": 1.0e-3, "connectors.lora": 2.0e-3},
        "data": {"pictures": 1.0},
        "steps": 4,
        "batch": 4,
        "weight_decay": 0.1,
    },
}


def tiny_recipe(folder: Path, **stage: Any) -> Path:
    """Two stages of 4 steps over 12 conversations, 4 of them without a picture; ``stage``: words for both stages."""
    import yaml

    from tests.support.parts import tiny_clip_folder, tiny_llm_folder

    path = folder / "recipe.yaml"
    if not (folder / "chat.jsonl").exists():
        _write_data(folder)
        tiny_llm_folder(folder, "llama")
        tiny_clip_folder(folder)
    recipe = {
        "name": "tiny",
        "llm": {"path": str(folder / "tiny-llama-0"), "dtype": "float32", "context": 128},
        "encoders": {"image": {"type": "hf_vision", "model": str(folder / "tiny-clip-0"), "layers": [-2]}},
        "connectors": {
            "image": {"type": "mlp", "from": "image"},
            "lora": {"type": "lora", "rank": 2, "dropout": 0.1},
        },
        "data": {
            "pictures": {"type": "chat_jsonl", "path": str(folder / "chat.jsonl"), "media": str(folder)},
            "texts": {"type": "chat_jsonl", "path": str(folder / "texts.jsonl"), "media": str(folder)},
        },
        "stages": {name: {"warmup": 0.25, "save_every": 2, **words, **stage} for name, words in STAGES.items()},
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def _write_data(folder: Path) -> None:
    from PIL import Image

    pictures, texts = [], []
    for number in range(8):
        Image.new("RGB", (28, 28), (number * 30, 255 - number * 30, 90)).save(folder / f"{number}.png")
        said = "A circle. " * (1 + number % 3)
        turns = [_turn("user", f"<image>\nWhat is on sign {number}?"), _turn("assistant", said)]
        pictures.append({"messages": turns, "image": [f"{number}.png"]})
    for number in range(4):
        turns = [_turn("user", f"How many are {number}?"), _turn("assistant", "There are 3 shapes.")]
        texts.append({"messages": turns})
    # the same conversations about three pictures only
    shared = [{**row, "image": [f"{number % 3}.png"]} for number, row in enumerate(pictures)]
    for name, rows in (("chat.jsonl", pictures), ("texts.jsonl", texts), ("shared.jsonl", shared)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sharing(folder: Path, *stages: str) -> tuple[str, ...]:
    """Overrides by which conversations about three pictures share their beginning in these stages."""
    return (f"data.pictures.path={folder / 'shared.jsonl'}", *(f"stages.{name}.share_prefix=true" for name in stages))


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def train_here(recipe: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    """Trains in this process."""
    from mmllm.recipe.load import load_recipe
    from mmllm.training.run import train

    train(load_recipe(recipe, overrides), out)


def die_at_fsync(at: int) -> None:
    """Let this process be killed before the ``at``-th fsync from now on."""
    real, calls = os.fsync, 0

    def dying(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = dying


def train_and_die(recipe: Path, out: Path, overrides: Sequence[str], at: int) -> None:
    """Trains in this process, which is killed before the ``at``-th fsync, in a save."""
    die_at_fsync(at)
    train_here(recipe, out, overrides)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what a clock or the machine says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second", "memory", "time")} for row in rows
    ]


def start(target: Callable[..., None], *arguments: Any, ranks: int = 1) -> list[BaseProcess]:
    """Starts ``target(*arguments)`` in ``ranks`` new processes that find each other; the caller joins or kills them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        environment = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = context.Process(target=_enter, args=(environment, target, arguments))
        process.start()
        processes.append(process)
    return processes


def _enter(environment: dict[str, str], target: Callable[..., None], arguments: Sequence[Any]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for every ZeRO-3 engine: a second each over all that is loaded here
    target(*arguments)


def finish(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Exit codes once all have ended."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def edit_manifest(path: Path, **values: Any) -> None:
    """Give a checkpoint's manifest other values, and the digest that belongs to them."""
    from mmllm.checkpoints.store import Manifest, write_manifest

    write_manifest(path, Manifest(**{**json.loads(path.read_text(encoding="utf-8")), **values}))


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, *keys: str, value: object) -> None:
    """Write a value into a recipe file."""
    import yaml

    data = yaml.safe_load(path.read_text())
    node = data
    for key in keys[:-1]:
        node = node.setdefault(key, {})
    node[keys[-1]] = value
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run below ``home``, which becomes the current folder."""
    monkeypatch.chdir(home)
    return Path("run")
