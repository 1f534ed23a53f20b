"""Writes benchmarks/serve/RESULTS.md from the figures of ``python -m benchmarks.serve sets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(found: dict[str, Any], page: Path) -> None:
    """Write the page; parts that were not measured are left out."""
    lines = [
        "# Many sets in one server",
        "",
        "Written by `python -m benchmarks.serve sets`.",
        f"Machine: {found['machine']}.",
        "",
    ]
    if "speed" in found:
        lines += _speed(found["speed"])
    if "memory" in found:
        one = found["memory"]
        lines += [
            "## Memory",
            "",
            f"{one['sets']} sets loaded from run folders and asked once: their tensors take {one['tensors_mb']:.1f}",
            f"MB, the process grew by {one['grown_mb']:.1f} MB; so a set takes",
            f"{one['beside_tensors_mb_each']:.2f} MB beside its tensors.",
            "",
        ]
    if "campaign" in found:
        lines += _campaign(found["campaign"])
    page.write_text("\n".join(lines))


def _speed(rows: list[dict[str, Any]]) -> list[str]:
    ranks = ", ".join(map(str, rows[0]["ranks"]))
    lines = [
        "## Speed",
        "",
        "32 requests with prompts of their own and 48 new tokens each, on the miniature LLM; LoRA of the ranks",
        f"{ranks} in turn on all linear layers, with drawn weights. Tokens per CPU second of one thread, the three",
        "ways in turns; the answers of the first two are equal. One set for all has rank 16. Other work shared the",
        "machine: only the ratios (median, and range over rounds) mean something.",
        "",
        "| sets | rounds | together | switching each request | one set for all | over switching | over one set |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        rates = row["tokens_per_s"]
        cells = [f"{rates[name]:.0f}" for name in ("together", "switching", "one set for all")]
        ratios = [
            f"{one['median']:.2f} ({one['min']:.2f}-{one['max']:.2f})"
            for one in (row["against_switching"], row["against_one_set"])
        ]
        lines.append(f"| {row['sets']} | {row['n']} | {' | '.join([*cells, *ratios])} |")
    return [*lines, ""]


def _campaign(one: dict[str, Any]) -> list[str]:
    return [
        "## Right answers under reloads, evictions and forbidden names",
        "",
        f"{one['requests']:,} requests in {one['minutes']:.0f} minutes to {one['sets']} sets of three groups by four",
        "keys, with memory for about 10 of them. A run was written anew with other weights",
        f"{one['rewritten']} times; {one['loads']} loads, {one['removals']} removals. Sets that answer differently:",
        f"{one['distinct_answers']}.",
        "",
        "| answer | requests |",
        "|---|--:|",
        f"| right: what the set answers alone, in a version its name then led to | {one['right']} |",
        f"| of a wrong set | {one['wrong']} |",
        f"| of a stale version | {one['stale']} |",
        f"| forbidden name, refused as one that does not exist | {one['forbidden_refused']} |",
        f"| forbidden name, answered | {one['forbidden_answered']} |",
        f"| told to come back later (429) | {one['busy']} |",
        f"| other statuses | {one['other'] or 'none'} |",
        "",
    ]
