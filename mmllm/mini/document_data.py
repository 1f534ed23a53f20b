"""Writes the miniature data of documents: key-value texts, questions for one value, and the text itself to restore."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from mmllm.mini.world.described import Ask, Described
from mmllm.mini.world.text import recall

RESTORE = "copy the text."
PAIRS = (4, 6, 8)
"""Facts of a document, a third of them each; also the ``kind`` of the questions: ``facts_4``."""
ASKED = 4


def write_document(out: Path, train: int, test: int, seed: int) -> None:
    """``restore.jsonl`` and ``instruct.jsonl`` about ``train`` documents, ``test/mini_recall.jsonl`` with questions.

    A document is random keys with random values, as the miniature LM knows them in text ("tea red, n4 oslo"). No text
    occurs twice. ``complete`` is written last.
    """
    (out / "complete").unlink(missing_ok=True)
    seen: set[str] = set()
    restore: list[dict[str, object]] = []
    instruct: list[dict[str, object]] = []
    for file, matter in _documents(out, train, Random(f"document/train/{seed}"), seen):
        name = Path(file).stem
        text = matter.text(", ")
        told = (Ask("restore", RESTORE, text),)
        restore.append({"id": f"restore_{name}", "messages": _messages(told), "document": [file]})
        instruct.append({"id": f"instruct_{name}", "messages": _messages(matter.asks), "document": [file]})
    _write(out / "restore.jsonl", restore)
    _write(out / "instruct.jsonl", instruct)
    rows: list[dict[str, object]] = []
    for file, matter in _documents(out / "test", test, Random(f"document/test/{seed}"), seen):
        ask = matter.asks[0]
        row = {"id": Path(file).stem, "document": file, "question": ask.question, "answers": [ask.answer]}
        rows.append({**row, "kind": f"facts_{len(matter.facts)}"})
    _write(out / "test" / "mini_recall.jsonl", rows)
    made = {"train": train, "test": test, "seed": seed}
    (out / "complete").write_text(json.dumps(made) + "\n", encoding="utf-8")


def _documents(folder: Path, n: int, rng: Random, seen: set[str]) -> list[tuple[str, Described]]:
    """(file, matter) of ``n`` documents that are not in ``seen``, which grows by them."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, Described]] = []
    while len(found) < n:
        matter = recall(rng, PAIRS[len(found) % len(PAIRS)], ASKED)
        text = matter.text(", ")
        if text in seen:
            continue
        seen.add(text)
        file = f"media/{len(found):06d}.txt"
        (folder / file).write_text(text, encoding="utf-8")
        found.append((file, matter))
    return found


def _messages(asks: tuple[Ask, ...]) -> list[dict[str, str]]:
    messages = []
    for number, ask in enumerate(asks):
        question = ask.question if number else f"<document>\n{ask.question}"
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": ask.answer}]
    return messages


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
