"""Expert usage in short form, of summed metrics of ``moe_lora``: for a line of ``metrics.jsonl`` and for the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Table = Sequence[Sequence[float]]
"""Block -> tokens of each of its experts; blocks may have different numbers of experts."""


def shortened(total: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the experts in the tokens of ``total``, metrics summed over passes and ranks.

    ``least`` and ``most``: smallest and largest share that an expert has of the tokens of its block; ``shares``: data
    key -> modality -> share of each expert over all blocks; ``gates``: share of the routers' decisions that were as
    taught. What was not counted is left out.
    """
    short: dict[str, Any] = {}
    shares: dict[str, dict[str, list[float]]] = {}
    blocks: list[list[float]] = []
    for dataset, modality, table in used(total):
        shares.setdefault(dataset, {})[modality] = _shares(_over_blocks(table))
        blocks = [_added(*rows) for rows in zip(blocks, table, strict=True)] if blocks else [list(row) for row in table]
    if shares:
        parts = [_shares(block) for block in blocks if sum(block)]
        short = {"least": min(map(min, parts)), "most": max(map(max, parts)), "shares": shares}
    if "gates" in total:
        short["gates"] = round(total["gates"]["right"] / max(1, total["gates"]["labelled"]), 4)
    return short


def line(short: Mapping[str, Any]) -> str:
    """A few words of it for the log: ``an expert's share of its block 0.12-0.55``."""
    words = [f"an expert's share of its block {short['least']:.2f}-{short['most']:.2f}"] if "least" in short else []
    words += [f"gates right {short['gates']:.2f}"] if "gates" in short else []
    return ", ".join(words)


def used(total: Mapping[str, Any]) -> Iterator[tuple[str, str, Table]]:
    """(data key, modality, tokens) of all that some expert saw a token of."""
    for dataset, modalities in total.get("experts", {}).items():
        for modality, table in modalities.items():
            # a pass counts every modality for every data key: only the device knows which has tokens
            if any(map(any, table)):
                yield dataset, modality, table


def _added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _over_blocks(table: Table) -> list[float]:
    """Tokens of each expert number over blocks."""
    width = max(map(len, table))
    return [sum(block[expert] for block in table if expert < len(block)) for expert in range(width)]


def _shares(values: Sequence[float]) -> list[float]:
    return [round(value / sum(values), 4) for value in values]
