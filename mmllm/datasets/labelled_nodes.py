"""The base of datasets of labelled nodes: a node's class is asked in words; their graph is written as a folder once.

``planetoid`` and ``text_attributed_graph`` read their files into :class:`Labelled`; the encoder reads the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError
from mmllm.types import Message, Sample

QUESTION = "What is the topic of this node?"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Labelled:
    """Classes of nodes, and the nodes of each split."""

    labels: numpy.ndarray
    """int64[nodes], -1: unknown."""
    classes: tuple[str, ...]
    splits: Mapping[str, numpy.ndarray]
    """The data set's own: int64[n] nodes of ``train``, ``valid`` and ``test``."""


class LabelledNodes(Dataset):
    """One question per node of a split: ``<graph>`` and the class of that node in words."""

    def __init__(
        self,
        path: str,
        graph: str | None,
        split: str,
        seed: int | None,
        shares: Sequence[float],
        question: str,
        words: Mapping[str, str] | None,
    ) -> None:
        self.path = Path(path)
        if split not in SPLITS:
            raise MmllmError(f"{path}: split {split!r} is unknown; known: {', '.join(SPLITS)}.")
        for file in self.files:
            if not file.is_file():
                raise MmllmError(f"there is no {file}; {self.fetch}")
        found = self.read()
        self.nodes = found.splits[split] if seed is None else drawn(found.labels, split, seed, shares)
        self.folder = Path(graph) if graph is not None else self.path / "graph"
        written(self.folder, self.files, self.write)
        self.classes = found.classes
        self._labels = found.labels
        self._words = words_of(found.classes, words)
        self._question = question

    fetch: str
    """Sentence on what to fetch, from where, and where to put it; ends the errors about missing files."""

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """All files that are read."""

    @abstractmethod
    def read(self) -> Labelled:
        """Labels and splits; MmllmError where files are damaged."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """The graph in the form that the ``text_graph`` encoder reads."""

    def __len__(self) -> int:
        """Nodes of the split."""
        return len(self.nodes)

    def __getitem__(self, index: int) -> Sample:
        """The question about one node with its answer, named ``<name>:<node>``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        answer = Message("assistant", self.answer(index))
        return Sample(
            f"{self.name}:{self.nodes[index]}",
            (Message("user", f"<graph>\n{self._question}"), answer),
            {"graph": (self.item(index),)},
        )

    def item(self, index: int) -> Path:
        """Path that the encoder reads: the graph's, ending in the node."""
        return Path(f"{self.folder / 'graph.json'}#{self.nodes[index]}")

    def answer(self, index: int) -> str:
        """Its class in words."""
        return self._words[int(self._labels[self.nodes[index]])]

    @property
    def question(self) -> str:
        """Question asked about every node."""
        return self._question


def words_of(classes: Sequence[str], words: Mapping[str, str] | None) -> list[str]:
    """The answer for each class: its own name, or what ``words`` (all classes -> words) says."""
    if words is None:
        return list(classes)
    missing = [one for one in classes if one not in words]
    unknown = sorted(words.keys() - set(classes))
    if missing or unknown:
        wrong = f"no word for {missing[0]!r}" if missing else f"{unknown[0]!r}, which is no class"
        raise MmllmError(f"words has {wrong}; the classes are {', '.join(classes)}.")
    if len({words[one] for one in classes}) < len(classes):
        raise MmllmError("words gives two classes the same word, so their answers cannot be told apart.")
    return [words[one] for one in classes]


def drawn(labels: numpy.ndarray, split: str, seed: int, shares: Sequence[float]) -> numpy.ndarray:
    """Nodes of one split of the labelled ones, int64[n], drawn by ``seed``; ``shares``: of train, valid and test."""
    # the margin: shares written in decimals may add up to a little more than 1
    if len(shares) != 3 or min(shares) < 0 or sum(shares) > 1 + 1e-9:
        raise MmllmError(f"shares: {list(shares)} must be the shares of train, valid and test, together at most 1.")
    known = numpy.flatnonzero(labels >= 0)
    order = numpy.random.default_rng(seed).permutation(known)
    bounds = numpy.round(numpy.cumsum([0.0, *shares]) * len(known)).astype(int)
    place = SPLITS.index(split)
    return order[bounds[place] : bounds[place + 1]]


def written(folder: Path, files: Sequence[Path], write: Callable[[Path], None]) -> None:
    """Let ``write`` fill the graph folder, unless it was made from the same files; ``graph.json`` says from which.

    Raises MmllmError where it was made from others.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    made = {"directed": False, "of": total.hexdigest()}
    mark = folder / "graph.json"
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) != made:
            raise MmllmError(f"{folder} was made from other files than {files[0].parent} holds; delete it.")
        return
    new = folder.with_name(f"{folder.name}.new-{os.getpid()}")  # several ranks may write it at the same time
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write(new)
    (new / "graph.json").write_text(json.dumps(made), encoding="utf-8")
    try:
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new)
        # with a mark there another rank was faster, from the same files
        if not mark.is_file():
            raise MmllmError(f"{folder} cannot be written ({error}); say where with `graph`.") from error
