"""Use of experts in an evaluation: ``experts.json``, a table and ``experts.png`` beside its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from mmllm.generation.generator import Generator
from mmllm.model.metrics import added

Layers = list[list[float]]
"""Block -> tokens of each of its experts."""


class Usage:
    """Tokens of each expert in the connectors whose metrics hold ``experts``, by benchmark and modality."""

    def __init__(self, generator: Generator, out: Path, model: str) -> None:
        """``model``: digest of the weights; what the file in ``out`` says of other weights is left out."""
        self.generator, self.out, self.model = generator, out, model
        self.path = out / "experts.json"
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        same = before.get("checkpoint") == model
        self.entries: dict[str, dict[str, dict[str, Layers]]] = before["tokens"] if same else {}
        """Connector -> benchmark -> modality -> layers."""
        generator.count_everything()
        generator.take_metrics()  # of what it answered before: not this evaluation's

    def take(self, benchmark: str | None) -> None:
        """Count what was answered since the last call for ``benchmark``; None: forget it.

        Questions answered by an earlier command are counted there; nothing new leaves its figures.
        """
        for key, report in self.generator.take_metrics().items():
            by_modality: dict[str, Layers] = reduce(added, report.get("experts", {}).values(), {})
            # every pass counts every modality: those without a token have only zeros
            modalities = {name: layers for name, layers in by_modality.items() if any(map(any, layers))}
            if benchmark is not None and modalities:
                self.entries.setdefault(key, {})[benchmark] = modalities

    def show(self, console: Any) -> None:
        """Write the file and the picture and print the table; nothing where no connector has experts."""
        if not self.entries:
            return
        text = json.dumps({"checkpoint": self.model, "tokens": self.entries}, indent=1)
        self.path.write_text(text + "\n", encoding="utf-8")
        for key, benchmarks in self.entries.items():
            console.print(_table(key, benchmarks, self.path))
        _picture(self.entries, self.out / "experts.png")


def shares(layers: Sequence[Sequence[float]]) -> list[float]:
    """Share of each expert number in the tokens of all blocks; blocks may have different numbers of experts."""
    width = max(map(len, layers))
    totals = [sum(block[expert] for block in layers if expert < len(block)) for expert in range(width)]
    return [total / sum(totals) for total in totals]


def _table(key: str, benchmarks: Mapping[str, Mapping[str, Layers]], file: Path) -> Any:
    """One line per benchmark and modality, one column per expert."""
    from rich.table import Table

    rows = [(name, modality, shares(layers)) for name, one in benchmarks.items() for modality, layers in one.items()]
    table = Table("benchmark", "tokens", title=f"experts of {key}: {file}", title_justify="left")
    for number in range(max(len(values) for _, _, values in rows)):
        table.add_column(str(number), justify="right", no_wrap=True)
    for name, modality, values in rows:
        table.add_row(name, modality, *(f"{value:.0%}" for value in values))
    return table


def _picture(entries: Mapping[str, Mapping[str, Mapping[str, Layers]]], path: Path) -> None:
    """A map per connector, benchmark and modality: blocks down, experts to the right, share of the block's tokens."""
    # without pyplot: it would look for a display and keep every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = [
        (f"{key} {name}\n{modality}", layers)
        for key, benchmarks in entries.items()
        for name, modalities in benchmarks.items()
        for modality, layers in modalities.items()
    ]
    figure = Figure(figsize=(2.2 * len(maps) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (title, layers) in zip(axes, maps, strict=True):
        width = max(map(len, layers))
        grid = [[*(v / max(1.0, sum(row)) for v in row), *[float("nan")] * (width - len(row))] for row in layers]
        drawn = axis.imshow(grid, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("expert")
    axes[0].set_ylabel("block")
    figure.colorbar(drawn, ax=list(axes), label="share of the block's tokens")
    FigureCanvasAgg(figure).print_png(str(path))
