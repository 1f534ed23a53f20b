"""Writes benchmarks/speed/RESULTS.md and the README's speed table from the figures kept by ``run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.demo import put

PAGE = Path("benchmarks/speed/RESULTS.md")
README = Path("README.md")
WANTED = {
    "train_stage1": (2.3, 2.8, 3.0),
    "train_stage1_tiles": (None, 2.3, 3.0),
    "train_stage2": (2.1, 2.5, 2.8),
    "train_stage1_shared": (2.3, 4.5, 5.5),
    "train_stage2_shared": (2.1, 4.0, 5.0),
    "memory_stage1_152k": (5.8, 5.5, 7.0),
    "memory_stage2_152k": (3.7, 5.0, 6.0),
    "chat_turn5_first_token": (0.98, 12.0, 20.0),
    "serve_8": (0.67, 1.1, 1.4),
    "serve_32": (1.0, 2.2, 3.0),
    "eval_4_per_picture": (0.96, 1.8, 2.5),
    "eval_real": (None, 2.0, 2.5),
    "tiles_12": (None, 0.9, 1.0),
    "plan_tokens": (0.4, 0.75, 0.9),
    # the mixture is to cost at most 1.05 times plain LoRA, 1.03 is the goal
    "moe_lora": (0.97, 0.95, 0.97),
    "video_gop30": (0.66, 0.9, 1.0),
    "video_gop250": (0.49, 0.9, 1.0),
}
"""Row -> what version 0.1 reached (None: it could not), the least that is wanted, and the goal."""


def write(folder: Path) -> None:
    """Write the page and the README's part. SystemExit where nothing was measured."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    rows = [found[name] for name in WANTED if name in found]
    if not rows:
        raise SystemExit(f"nothing measured in {folder}: run `python -m benchmarks.speed run` first")
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    PAGE.write_text(
        "# Speed beside what one would run otherwise\n\nWritten by `python -m benchmarks.speed table` from the figures "
        "that `python -m benchmarks.speed run` kept in benchmarks/speed/results. Each row is one process with one "
        "thread: baseline and mmllm take turns on the same weights and data after a warm-up, in CPU seconds, and their "
        "results are asserted equal in every round. The ratio is baseline / mmllm, the median over n rounds of the "
        "ratio inside a round (min-max). But for `eval_real`, weights are random and sizes small (a ViT of 6 x 384, "
        "an LLM of 8 x 512): with larger LLMs the head and the encoder weigh less, so do not carry these ratios over. "
        "Memory is the most bytes that torch holds in a step beside weights and optimizer, as a GPU would need them; "
        "by how much the process grew is in brackets: the C library's heap adds its holes to both sides.\n\n"
        f"Machine: {machines}.\n\n{_whole(rows)}\n\n## What was compared\n\n{_details(rows)}\n"
    )
    put(README, "speed", "benchmarks.speed", _short(rows))


def _whole(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| row | ratio (min-max) | n | baseline | mmllm | pad efficiency | 0.1 | least wanted | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, least, goal = WANTED[row["name"]]
        past = "" if before is None else before
        pad = "" if row["pad_efficiency"] is None else f"{row['pad_efficiency']:.2f}"
        lines.append(
            f"| {row['name']} | **{row['ratio']:.2f}** ({row['ratio_min']:.2f}-{row['ratio_max']:.2f}) | {row['n']} "
            f"| {_amount(row, 'baseline')} | {_amount(row, 'ours')} | {pad} | {past} | {least} | {goal} |"
        )
    return "\n".join(lines)


def _amount(row: dict[str, Any], side: str) -> str:
    if row["name"].startswith("memory"):
        return f"{row[f'{side}_mb']:.0f} ({row[f'{side}_rss_mb']:.0f}) MB"
    return f"{row[f'{side}_s']:.3f} s"


def _details(rows: list[dict[str, Any]]) -> str:
    return "\n".join(f"- `{row['name']}`: {row['what']}. Baseline: {row['against']}." for row in rows)


def _short(rows: list[dict[str, Any]]) -> str:
    lines = ["| | times as fast (memory: times less) | beside |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['ratio']:.2f} | {row['against']} |" for row in rows]
    return "\n".join(lines)
