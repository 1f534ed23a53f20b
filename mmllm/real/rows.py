"""Rows of JSON that the real model's data are written as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def conversation(identity: str, question: str, answer: str, picture: str) -> dict[str, Any]:
    """One row of OpenAI's messages about one picture."""
    turns = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
    return {"id": identity, "messages": turns, "image": [picture]}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
