"""`mmllm inspect`: from what was typed to the terminal or the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmllm.errors import MmllmError
from mmllm.inspection import terminal
from mmllm.inspection.page import write
from mmllm.inspection.report import inspect
from mmllm.recipe.load import load_recipe


def run(
    recipe: Path, overrides: Sequence[str], data: str | None, first: int, numbers: Sequence[int], html: Path | None
) -> None:
    """Print the report of a recipe file's data, or write it to ``html``; arguments as ``report.inspect`` has them.

    Raises:
        MmllmError: the recipe is wrong, its data are not there, or the page cannot be written.
    """
    # now, and not after all rows are looked through
    if html is not None and not html.parent.is_dir():
        raise MmllmError(f"{html}: the page cannot be written: there is no folder {html.parent}")
    report = inspect(load_recipe(recipe, overrides), data, first, numbers, terminal.progress)
    if html is None:
        terminal.show(report, Console(highlight=False))
    else:
        print(write(report, html))
