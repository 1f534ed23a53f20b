"""What `mmllm inspect` prints of one row and of the whole file, for docs/data.md."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
DATA = "data/mini/fixtures"
COMMAND = ["mini/pool", f"data.instruct.path={DATA}/instruct.jsonl", f"data.instruct.media={DATA}"]
ROW = 22
"""A row without a picture, which a terminal without colours would show in letters."""


def inspected() -> str:
    """Return the command and its output as a fenced block."""
    from mmllm.inspection import terminal
    from mmllm.inspection.report import inspect
    from mmllm.recipe.files import find_recipe
    from mmllm.recipe.load import load_recipe

    file = io.StringIO()
    with contextlib.chdir(ROOT):
        report = inspect(load_recipe(find_recipe(COMMAND[0]), COMMAND[1:]), "instruct", numbers=[ROW])
        terminal.show(report, Console(file=file, width=100, color_system=None, highlight=False))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    typed = " \\\n    ".join([f"mmllm inspect {COMMAND[0]} --data instruct --row {ROW}", *COMMAND[1:]])
    return "\n".join(["```", f"$ {typed}", *lines, "```"])
