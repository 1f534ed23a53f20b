"""The real model from nothing: fetch, data, train, evaluate, compare text, answer; what ``make real`` runs.

Every step goes on where an earlier call was stopped, and is left out where it is done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.real.data import write_data
from mmllm.real.fetch import fetch
from mmllm.real.sources import PARTS

if TYPE_CHECKING:
    from rich.console import Console

HOME = Path("data/real")
"""Where parts and data go; the recipe says so."""
RECIPE = "real/real.yaml"
ASKED = 500
"""Questions of each benchmark that are asked; ``mmllm eval`` asks all."""
TIMES = "times.json"
"""File of the run folder with the seconds of each step."""
TEXTS = "text.json"
"""File of the run folder with what :func:`mmllm.real.text.compare_text` found."""


def run(out: Path = Path("runs/real"), local: Path | None = None) -> None:
    """Do all of it, below the current folder; ``local``: a folder that holds data sets already.

    Raises MmllmError where a step cannot be done; what was done before stays.
    """
    from rich.console import Console

    console = Console()
    times = _Times(out, console)
    with times.step("1  fetch the frozen parts"):
        fetch(HOME, [*PARTS], lambda line: console.print(line, markup=False, soft_wrap=True))
    with times.step("2  data"):
        write_data(HOME / "data", local, lambda line: console.print(line, markup=False, soft_wrap=True))
    with times.step("3  train: hear, then see"):
        _train(out)
    with times.step("4  evaluate, with media and without"):
        _evaluate(out)
    with times.step("5  text, beside the bare LLM"):
        _compare(out, console)
    with times.step("6  some answers"):
        _answer(out, console)
    console.rule("[bold]done")
    console.print(f"{out}: {sum(times.seconds.values()) / 60:.0f} minutes in all\n")
    console.print("[bold]What next[/]")
    console.print(f"  mmllm chat {out}      # a path in a line shows it a picture or plays it a sound")
    console.print(f"  mmllm serve {out}     # then, beside it: streamlit run streamlit_app.py")
    console.print(f"  mmllm eval {out}      # all questions of the benchmarks")


class _Times:
    """Seconds of each step over all calls, in a file of the run folder."""

    def __init__(self, out: Path, console: Console) -> None:
        self.file, self.console = out / TIMES, console
        self.seconds: dict[str, float] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Head a step, and add its time to what earlier calls took for it."""
        self.console.rule(f"[bold]{name}")
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            if self.file.parent.is_dir():  # a run begins with its training
                write_json(self.file, self.seconds)


def _train(out: Path) -> None:
    from mmllm.recipe.files import folder
    from mmllm.training.launch import launch

    launch(folder() / RECIPE, overrides=(), gpus=1, nodes=None, out=out)


def _evaluate(out: Path) -> None:
    from mmllm.evaluation.run import evaluate

    evaluate(out, limit=ASKED, blind=True)


def _compare(out: Path, console: Console) -> None:
    from mmllm.real.text import compare_text

    found = compare_text(out)
    write_json(out / TEXTS, found)
    same = "bit for bit" if found["equal"] else "NOT the same"
    console.print(
        f"perplexity {found['perplexity']:.4f}, bare {found['perplexity_bare']:.4f}; {len(found['prompts'])} prompts: "
        f"logits and answers of the bare LLM, {same}"
    )


def _answer(out: Path, console: Console) -> None:
    """Show what evaluation heard to the first questions of each benchmark."""
    for name, row in samples(out):
        console.print(
            f"{name}  {row['question']}  [green]{row['prediction']}[/]  [dim]truth: {row['references'][0]}[/]"
        )


def samples(out: Path, each: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """(benchmark, line of its predictions), evenly drawn from each benchmark of a run."""
    for file in sorted((out / "predictions").glob("*.jsonl")):
        if file.stem.endswith(".blind"):
            continue
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for number in range(min(each, len(rows))):
            yield file.stem, rows[number * len(rows) // each]


def write_json(file: Path, found: Any) -> None:
    """Replace a file in one step."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, file)
