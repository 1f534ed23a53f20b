"""Writes the miniature data of points: clouds of solids, conversations about them, held-out questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmllm.miniature.tasks.rows import write_rows
from mmllm.miniature.world.points import SOLIDS, solid

QUESTION = "what shape is it?"


def write_points(out: Path, train: int, test: int, seed: int) -> None:
    """``instruct.jsonl``: ``train`` conversations; ``test/mini_points.jsonl``: ``test`` questions; one cloud each.

    Clouds are float16 [256, 3] in ``.npy``; every one is drawn anew, so no test cloud is one of training. ``complete``
    is written last.
    """
    (out / "complete").unlink(missing_ok=True)
    rows: list[dict[str, object]] = []
    # a digit behind the seed, so that training and test draw from streams of their own
    for file, kind in _clouds(out, "media", train, f"{seed}1"):
        asked = {"role": "user", "content": f"<points>\n{QUESTION}"}
        messages = [asked, {"role": "assistant", "content": SOLIDS[kind]}]
        rows.append({"id": Path(file).stem, "messages": messages, "points": [file]})
    write_rows(out / "instruct.jsonl", rows)
    rows = []
    for file, kind in _clouds(out / "test", "media", test, f"{seed}2"):
        row = {"id": Path(file).stem, "points": file, "question": QUESTION, "answers": [SOLIDS[kind]], "kind": kind}
        rows.append(dict(row))
    write_rows(out / "test" / "mini_points.jsonl", rows)
    made = {"train": train, "test": test, "seed": seed}
    (out / "complete").write_text(json.dumps(made) + "\n", encoding="utf-8")


def _clouds(folder: Path, media: str, n: int, seed: str) -> list[tuple[str, str]]:
    """(file, kind) of ``n`` clouds, the kinds equally often in an order of their own."""
    rng = np.random.default_rng(int(seed))
    (folder / media).mkdir(parents=True, exist_ok=True)
    kinds = rng.permutation(np.resize(list(SOLIDS), n))
    found = []
    for number, kind in enumerate(map(str, kinds)):
        file = f"{media}/{number:06d}.npy"
        np.save(folder / file, solid(rng, kind).astype(np.float16))
        found.append((file, kind))
    return found
