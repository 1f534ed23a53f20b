"""Expert usage of a training step in short form, for ``metrics.jsonl`` and the log; made of the connectors' reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from mmllm.model.metrics import added


def shortened(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every rank's metrics (connector key -> ``Connector.metrics``) summed; connector key -> a line's metrics.

    ``least`` and ``most``: smallest and largest share that an expert has of the tokens of its block; ``shares``: source
    -> modality -> share of each expert over all blocks; ``gates``: share of the routers' decisions that were as taught.
    """
    total = reduce(added, reports)
    return {key: _short(report) for key, report in total.items()}


def _short(report: Mapping[str, Any]) -> dict[str, Any]:
    short: dict[str, Any] = {}
    if "experts" in report:
        tables = [table for modalities in report["experts"].values() for table in modalities.values()]
        blocks = [_shares(block) for block in reduce(added, tables) if sum(block)]
        short["least"], short["most"] = min(map(min, blocks)), max(map(max, blocks))
        short["shares"] = {
            source: {modality: _shares(_over_blocks(table)) for modality, table in modalities.items()}
            for source, modalities in report["experts"].items()
        }
    if "gates" in report:
        short["gates"] = round(report["gates"]["right"] / max(1, report["gates"]["labelled"]), 4)
    return short


def _over_blocks(table: Sequence[Sequence[float]]) -> list[float]:
    """Tokens of each expert number over blocks, which may have different numbers of experts."""
    width = max(map(len, table))
    return [sum(block[expert] for block in table if expert < len(block)) for expert in range(width)]


def _shares(values: Sequence[float]) -> list[float]:
    return [round(value / sum(values), 4) for value in values]


def line(usage: Mapping[str, Mapping[str, Any]]) -> str:
    """One short line for the log: ``moe: an expert's share of its block 0.12-0.55``."""
    parts = []
    for key, short in usage.items():
        words = [f"an expert's share of its block {short['least']:.2f}-{short['most']:.2f}"] if "least" in short else []
        words += [f"gates right {short['gates']:.2f}"] if "gates" in short else []
        if words:
            parts.append(f"{key}: {', '.join(words)}")
    return "  ".join(parts)
