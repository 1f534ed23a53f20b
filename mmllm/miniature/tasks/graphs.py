"""Writes the miniature data of graphs: one graph to learn on, another one to be asked about."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy

from mmllm.miniature.tasks.rows import write_rows
from mmllm.miniature.world.graphs import QUESTION, Blocks, blocks

LEAST = 300
"""Nodes of a graph at least."""


def write_graph(out: Path, train: int, test: int, seed: int) -> None:
    """``instruct.jsonl``: ``train`` conversations; ``test/mini_graph.jsonl``: ``test`` questions; one node each.

    The graphs are folders of the ``text_graph`` encoder; the one of the test shares no node with that of training.
    ``complete`` is written last.
    """
    (out / "complete").unlink(missing_ok=True)
    graph = blocks(Random(f"graph/train/{seed}"), max(train, LEAST))
    write_folder(out / "media" / "world", graph)
    rows: list[dict[str, object]] = []
    for node in range(train):
        asked = {"role": "user", "content": f"<graph>\n{QUESTION}"}
        messages = [asked, {"role": "assistant", "content": graph.topics[node]}]
        rows.append({"id": f"graph_{node:05d}", "messages": messages, "graph": [f"media/world/graph.json#{node}"]})
    write_rows(out / "instruct.jsonl", rows)
    graph = blocks(Random(f"graph/test/{seed}"), max(test, LEAST))
    write_folder(out / "test" / "media" / "world", graph)
    rows = []
    for node in range(test):
        row = {"id": f"{node:05d}", "graph": f"media/world/graph.json#{node}", "question": QUESTION}
        rows.append({**row, "answers": [graph.topics[node]], "kind": graph.topics[node]})
    write_rows(out / "test" / "mini_graph.jsonl", rows)
    made = {"train": train, "test": test, "seed": seed}
    (out / "complete").write_text(json.dumps(made) + "\n", encoding="utf-8")


def write_folder(folder: Path, graph: Blocks) -> None:
    """``texts.jsonl``, ``edges.npy`` and ``graph.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "texts.jsonl", [{"text": text} for text in graph.texts])
    numpy.save(folder / "edges.npy", numpy.array(graph.edges, dtype=numpy.int64).reshape(-1, 2))
    (folder / "graph.json").write_text(json.dumps({"directed": False}) + "\n", encoding="utf-8")
