"""The run folder a training writes to: its lock, its resolved recipe and the lines of ``metrics.jsonl``."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmllm.checkpoints.store import replace_text
from mmllm.errors import CheckpointError, RecipeError
from mmllm.recipe.load import dump, load_recipe
from mmllm.recipe.models import Recipe

_SHOWN = 6  # differences named in the error; the rest is counted


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the run folder for this process; the system lets go when it ends, however it ends.

    Raises CheckpointError when another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    # not "w": that would empty the file of the process that holds it, which the error names
    with (out / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise CheckpointError(
                f"{out} is in use by another training ({file.read().strip() or 'process unknown'}); wait for it, stop "
                "it, or give another --out"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def pin_recipe(recipe: Recipe, out: Path) -> None:
    """Writes ``recipe.yaml`` the first time; later RecipeError unless it still says the same."""
    path = out / "recipe.yaml"
    if not path.exists():
        replace_text(path, dump(recipe))
        return
    changes = _changes(load_recipe(path).model_dump(mode="json"), recipe.model_dump(mode="json"), "")
    if changes:
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise RecipeError(
            f"{out} was started with another recipe: {'; '.join(changes[:_SHOWN])}{more}; run it with the recipe in "
            f"{path}, or give another --out (or name) for this one"
        )


def _changes(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        found = [line for key in keys for line in _changes(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
        return found or ([f"{where} is in another order"] if list(old) != list(new) else [])
    return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]


class Metrics:
    """``metrics.jsonl``: one line per optimizer step, none twice, none lost over a restart."""

    def __init__(self, out: Path) -> None:
        """Appends to the file in ``out``."""
        self.path = out / "metrics.jsonl"

    def rewind(self, done: Sequence[str], stage: str, step: int) -> None:
        """Keeps the lines of the stages ``done`` and the first ``step`` steps of ``stage``; the rest runs again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a kill in the middle of a line; that step runs again
                continue
            if row["stage"] in done or (row["stage"] == stage and row["step"] <= step):
                kept.append(line + "\n")
        replace_text(self.path, "".join(kept))

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def secure(self) -> None:
        """Makes sure the lines so far survive a power cut; called before a checkpoint that counts on them."""
        if self.path.exists():
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
