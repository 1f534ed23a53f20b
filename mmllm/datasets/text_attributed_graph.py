"""Text-attributed graphs as CSV tables (arXiv 2023): the category of a paper among those it cites, asked in words."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy

from mmllm.datasets.labelled_nodes import QUESTION, SPLITS, Labelled, LabelledNodes
from mmllm.errors import MmllmError

HEADS = {
    "raw/titles": ("titles",),
    "raw/edges": ("source", "target"),
    "raw/labels": ("labels",),
    "split/train": ("train_id",),
    "split/valid": ("val_id",),
    "split/test": ("test_id",),
}
"""Table -> its columns."""


class TextAttributedGraph(LabelledNodes):
    """Class of a node with a text: ``path``/raw/{titles,edges,labels}.csv and split/{train,valid,test}.csv, or .csv.gz.

    One row a node (``titles``, ``labels``), one an edge (``source``, ``target``), one a node number in the splits; the
    form of arxiv_2023 (He et al. 2023, arXiv 2305.19523). ``write`` puts texts and edges into a folder for the
    ``text_graph`` encoder. Without ``seed`` the split is the data set's own; with one it is drawn of all nodes.
    """

    fetch = "fetch the folder arxiv_2023 of a text-attributed graph collection and give it as path."

    def __init__(
        self,
        path: str,
        graph: str | None = None,
        split: str = "train",
        seed: int | None = None,
        shares: Sequence[float] = (0.6, 0.2, 0.2),
        question: str = QUESTION,
        words: Mapping[str, str] | None = None,
    ) -> None:
        """Open it.

        Args:
            path: folder of ``raw`` and ``split``.
            graph: folder the graph is written to, once; None: ``path``/graph.
            split: train, valid or test.
            seed: draw a split of ``shares`` (train, valid, test) of all nodes.
            shares: see ``seed``.
            question: asked about each node.
            words: class -> answer; None: the classes' own names.
        """
        self.name = f"text_attributed_graph:{Path(path).name}:{split}"
        super().__init__(path, graph, split, seed, shares, question, words)

    @property
    def files(self) -> Sequence[Path]:
        """Six tables; each may be compressed."""
        plain = [self.path / f"{table}.csv" for table in HEADS]
        return [file if file.is_file() or not _packed(file).is_file() else _packed(file) for file in plain]

    def read(self) -> Labelled:
        """Classes in the order of their names; an empty label is none."""
        names = [row[0] for row in self._table("raw/labels")]
        classes = sorted(set(names) - {""})
        numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
        splits = {split: self._numbers(f"split/{split}", len(names))[:, 0] for split in SPLITS}
        return Labelled(numpy.array([numbers[name] for name in names]), tuple(classes), splits)

    def write(self, folder: Path) -> None:
        """``texts.jsonl`` and ``edges.npy``."""
        texts = [row[0] for row in self._table("raw/titles")]
        lines = "".join(json.dumps(text) + "\n" for text in texts)
        (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
        numpy.save(folder / "edges.npy", self._numbers("raw/edges", len(texts)))

    def _table(self, table: str) -> list[list[str]]:
        """The rows of one table without its head."""
        file = self.files[list(HEADS).index(table)]
        try:
            if file.suffix == ".gz":
                with gzip.open(file, "rt", encoding="utf-8", newline="") as opened:
                    rows = list(csv.reader(opened))
            else:
                with file.open(encoding="utf-8", newline="") as opened:
                    rows = list(csv.reader(opened))
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise MmllmError(f"{file} cannot be read as a table ({error}).") from error
        head = HEADS[table]
        if not rows or tuple(rows[0]) != head or any(len(row) != len(head) for row in rows):
            raise MmllmError(f"{file} is not a table with the columns {', '.join(head)}.")
        return rows[1:]

    def _numbers(self, table: str, n_nodes: int) -> numpy.ndarray:
        """int64[rows, columns] of node numbers."""
        try:
            found = numpy.array(self._table(table), dtype=numpy.int64).reshape(-1, len(HEADS[table]))
        except ValueError as error:
            raise MmllmError(f"{self.path / table} holds something else than node numbers ({error}).") from error
        if len(found) and not 0 <= found.min() <= found.max() < n_nodes:
            raise MmllmError(f"{self.path / table} names a node that is not there; the nodes are 0..{n_nodes - 1}.")
        return found


def _packed(file: Path) -> Path:
    return file.with_name(f"{file.name}.gz")
