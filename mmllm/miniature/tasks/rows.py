"""Lines of the miniature data's files: conversations in ``chat_jsonl`` form; used by every writer of a modality."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmllm.miniature.world.described import Ask


def conversation(asks: Sequence[Ask], before: str) -> list[dict[str, str]]:
    """Messages of questions and answers; ``before`` (a placeholder, a text) stands above the first question."""
    messages = []
    for index, ask in enumerate(asks):
        question = f"{before}\n{ask.question}" if before and not index else ask.question
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": ask.answer})
    return messages


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One JSON object per line; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
