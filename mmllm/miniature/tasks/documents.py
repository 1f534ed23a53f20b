"""Writes the miniature data of documents: key-value texts, questions for one value, and the text itself to restore."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from mmllm.miniature.tasks.rows import conversation, write_rows
from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.words import COLOURS, ITEMS

RESTORE = "copy the text."
FACTS = 4
"""Facts of a document. Of eight of any words, tokens of a document learn nothing within minutes on one core."""


def write_document(out: Path, train: int, test: int, seed: int) -> None:
    """``restore.jsonl`` and ``instruct.jsonl`` about ``train`` documents, ``test/mini_recall.jsonl`` with questions.

    A document is four items with a colour each ("tea red, milk blue, ..."), which the miniature LM can look up in text.
    No text occurs twice. The ``kind`` of a question says which fact it asks for: ``fact_1``. ``complete`` is last.
    """
    (out / "complete").unlink(missing_ok=True)
    seen: set[str] = set()
    restore: list[dict[str, object]] = []
    instruct: list[dict[str, object]] = []
    for file, matter in _documents(out, train, Random(f"document/train/{seed}"), seen):
        name = Path(file).stem
        text = matter.text(", ")
        told = (Ask("restore", RESTORE, text),)
        restore.append({"id": f"restore_{name}", "messages": conversation(told, "<document>"), "document": [file]})
        asks = Random(f"{name}/{seed}").sample(matter.asks, FACTS)
        instruct.append({"id": f"instruct_{name}", "messages": conversation(asks, "<document>"), "document": [file]})
    write_rows(out / "restore.jsonl", restore)
    write_rows(out / "instruct.jsonl", instruct)
    rows: list[dict[str, object]] = []
    rng = Random(f"document/asked/{seed}")
    for file, matter in _documents(out / "test", test, Random(f"document/test/{seed}"), seen):
        ask = rng.choice(matter.asks)
        row = {"id": Path(file).stem, "document": file, "question": ask.question, "answers": [ask.answer]}
        rows.append({**row, "kind": f"fact_{matter.asks.index(ask) + 1}"})
    write_rows(out / "test" / "mini_recall.jsonl", rows)
    made = {"train": train, "test": test, "seed": seed}
    (out / "complete").write_text(json.dumps(made) + "\n", encoding="utf-8")


def _documents(folder: Path, n: int, rng: Random, seen: set[str]) -> list[tuple[str, Described]]:
    """(file, matter) of ``n`` documents that are not in ``seen``, which grows by them."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, Described]] = []
    while len(found) < n:
        facts = tuple((item, rng.choice(COLOURS)) for item in rng.sample(ITEMS, FACTS))
        asks = tuple(Ask("recall", f"{item}?", colour) for item, colour in facts)
        matter = Described("document", facts, asks, ", ".join(map(" ".join, facts)))
        text = matter.text(", ")
        if text in seen:
            continue
        seen.add(text)
        file = f"media/{len(found):06d}.txt"
        (folder / file).write_text(text, encoding="utf-8")
        found.append((file, matter))
    return found
