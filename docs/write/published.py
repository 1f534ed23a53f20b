"""The table of published models that can be imported: every odd configuration is imported here, tiny and random."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from mmllm.published.comparison import Stage
from mmllm.published.importing import import_checkpoint
from mmllm.testing.tiny.published import CASES, published_folder

_LEAST = 1e-6
"""Differences below it are rounding, and others on another machine."""


def table() -> str:
    """A row for each configuration, with the largest difference found."""
    rows = [
        "| model | places of an item | pixels or spectrogram | tokens | logits | answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            place = published_folder(case.name, Path(folder) / "vlm", **case.changes)
            stages = import_checkpoint(str(place), Path(folder) / "run", tiles=case.tiles)
        rows.append(row(name, stages))
    return "\n".join(rows)


def row(case: str, stages: list[Stage]) -> str:
    """The row of one configuration."""
    columns = ("ids",), ("pixels", "spectrogram", "mask"), ("tokens",), ("logits",), ("answer",)
    cells = [_largest(stages, what) for what in columns]
    return f"| {case} | {' | '.join(cells)} |"


def _largest(stages: list[Stage], what: tuple[str, ...]) -> str:
    found = max(stage.difference for stage in stages if stage.name.startswith(what))
    if not found and what[0] not in ("tokens", "logits"):
        return "equal"
    # also where it is 0 here: on another processor it is not
    return f"below {10.0 ** math.ceil(math.log10(max(found, _LEAST))):.0e}"
