"""Console output of a training: the start-up table of what learns, progress with loss, tokens/s, memory, time left.

Rank 0 shows it; a terminal gets a live line, anything else one plain line every ``log_every`` steps.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mmllm.model.trainable import PartRow


def memory(device: torch.device) -> int:
    """Largest memory so far in bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # getrusage counts in bytes on macOS and in KiB on Linux
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parts_table(stage: str, rows: Sequence[PartRow]) -> Table:
    """Table of what learns and what is frozen in this stage, with parameter counts."""
    table = Table(title=f"stage {stage}")
    for column, justify in (("part", "left"), ("parameters", "right"), ("learning", "right"), ("peak rate", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        rate = "frozen" if row.lr is None else f"{row.lr:g}"
        table.add_row(row.name, f"{row.n_params:,}", f"{row.n_trainable:,}", rate)
    table.add_row("all", f"{sum(row.n_params for row in rows):,}", f"{sum(row.n_trainable for row in rows):,}", "")
    return table


class Log:
    """Progress of one stage on the console of rank 0; the other ranks' are silent."""

    def __init__(self, stage: str, n_steps: int, log_every: int, shown: bool) -> None:
        """``shown`` on rank 0 only."""
        self.console = Console(quiet=not shown, highlight=False)
        self.stage, self.n_steps, self.log_every = stage, n_steps, log_every
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )
        self._task = self._progress.add_task(stage, total=n_steps, numbers="")

    def __enter__(self) -> Log:
        """Starts the live line."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the live line."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """One line."""
        # no markup: names of samples and paths may hold brackets, which rich would take for its own
        self.console.print(text, markup=False, soft_wrap=True)

    def step(self, row: dict[str, Any], left: float, usage: str = "") -> None:
        """Shows the metrics of a step; ``left`` seconds are expected until the stage's end.

        ``usage``: a line on what connectors counted in it.
        """
        numbers = (
            f"loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} tokens/s  {row['memory'] / 2**30:.2f} GiB"
            + (f"  {row['bad']} bad samples" if row["bad"] else "")
        )
        self._progress.update(self._task, completed=row["step"], numbers=numbers)
        if not self.console.is_terminal and (row["step"] % self.log_every == 0 or row["step"] == self.n_steps):
            rate = max(row["lr"].values())
            self.say(
                f"{self.stage} step {row['step']}/{self.n_steps}  {numbers}  rate {rate:.3g}  "
                f"gradient {row['grad_norm']:.3g}  {left:.0f} s left"
            )
        if usage and row["step"] % self.log_every == 0:
            self.say(usage)
