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

from mmllm.checkpoints.code_trust import sign_code
from mmllm.checkpoints.store import replace_text
from mmllm.errors import CheckpointError, RecipeError
from mmllm.recipe.load import dump, load_recipe
from mmllm.recipe.located import ORIGIN
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import IMPORTED, changes, listed, shaping


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the run folder for this process; the system lets go when it ends, however it ends.

    Raises CheckpointError when another process holds it, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # not "w": that would empty the file of the process that holds it, which the error names
        opened = (out / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"the run cannot be written into {out}: {error.strerror}; give another --out, a folder that you may write"
        ) from error
    with opened as file:
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


def compare_recipe(recipe: Recipe, out: Path, stage: str | None = None, shaped: dict[str, Any] | None = None) -> None:
    """RecipeError where another recipe than this one shaped a checkpoint of the run.

    ``stage``: the one that the newest checkpoint is of, and what it says itself of the recipe that ``shaped`` it. What
    comes after it, and words that shape no weights, may change; a run without a checkpoint takes any recipe.
    """
    path = out / "recipe.yaml"
    if stage is not None and (path.exists() or shaped is not None):
        # where the file is gone, the checkpoint itself still says what it was trained with
        known = load_recipe(path) if path.exists() else recipe
        found = changes(shaping(known, stage) if shaped is None else shaped, shaping(recipe, stage))
        names = list(known.stages)
        if (
            not found
            and stage != IMPORTED
            and names[: names.index(stage) + 1] != list(recipe.stages)[: names.index(stage) + 1]
        ):
            found = [f"its stages were {', '.join(names)}, are {', '.join(recipe.stages)}"]
        if found:
            raise RecipeError(
                f"{out} was started with another recipe: {listed(found)}; run it with the recipe in {path}, or give "
                "another --out (or name) for this one"
            )


def write_recipe(recipe: Recipe, out: Path) -> None:
    """Write the recipe of a run whose parts are loaded: one that names a wrong path leaves the run's as it was."""
    path, text = out / "recipe.yaml", dump(recipe)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        replace_text(path, text)
    sign_code(out)
    origin = json.dumps({"folder": str(Path.cwd())})
    if not (out / ORIGIN).exists() or (out / ORIGIN).read_text(encoding="utf-8") != origin:
        replace_text(out / ORIGIN, origin)


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
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a kill in the middle of a line; that step runs again
                continue
            if row["stage"] in done or (row["stage"] == stage and row["step"] <= step):
                kept.append(line + "\n")
        replace_text(self.path, "".join(kept))

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line; CheckpointError where the run folder is gone or full."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written any more: {error.strerror}; the run ends here, and the same command "
                "goes on from its last checkpoint"
            ) from error

    def secure(self) -> None:
        """Makes sure the lines so far survive a power cut; called before a checkpoint that counts on them."""
        if self.path.exists():
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
