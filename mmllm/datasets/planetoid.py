"""Planetoid's files of Cora, CiteSeer and PubMed: the class of a paper asked in words; bags of words are its state."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file

from mmllm.datasets.labelled_nodes import QUESTION, Labelled, LabelledNodes
from mmllm.errors import MmllmError

PARTS = ("y", "tx", "ty", "allx", "ally", "graph")
CLASSES = {
    "cora": (
        "theory",
        "reinforcement learning",
        "genetic algorithms",
        "neural networks",
        "probabilistic methods",
        "case based",
        "rule learning",
    ),
}
"""Names of the numbered classes, which the files do not hold; for other data sets the classes are numbers."""


class Planetoid(LabelledNodes):
    """Class of a paper among those it cites (Yang et al. 2016, arXiv 1603.08861): ``path``/ind.<name>.{allx,...,graph}.

    There are no texts: a node's state is its bag of words (Cora: 1433), which ``write`` puts into a folder for the
    ``text_graph`` encoder with ``width``. Without ``seed`` the split is the public one (Cora: 140 / 500 / 1000); with
    one it is drawn. The files are pickles: only arrays, sparse matrices and dictionaries of lists are let in.
    """

    fetch = "fetch the data folder of github.com/kimiyoung/planetoid and give it as path."

    def __init__(
        self,
        path: str,
        name: str = "cora",
        graph: str | None = None,
        split: str = "train",
        seed: int | None = None,
        shares: Sequence[float] = (0.6, 0.2, 0.2),
        question: str = QUESTION,
        words: Mapping[str, str] | None = None,
    ) -> None:
        """Open it.

        Args:
            path: folder of the files.
            name: of the data set in the files' names.
            graph: folder the graph is written to, once; None: ``path``/graph.
            split: train, valid or test.
            seed: draw a split of ``shares`` (train, valid, test) of all nodes.
            shares: see ``seed``.
            question: asked about each node.
            words: class -> answer; None: the classes' names.
        """
        self._set = name
        self.name = f"planetoid:{name}:{split}"
        super().__init__(path, graph, split, seed, shares, question, words)

    @property
    def files(self) -> Sequence[Path]:
        """Six pickles and the list of test nodes; ``x`` is the beginning of ``allx`` and is not needed."""
        names = [f"ind.{self._set}.{part}" for part in (*PARTS, "test.index")]
        return [self.path / name for name in names]

    def read(self) -> Labelled:
        """Classes are numbered by column of the one-hot labels; a node without any has none."""
        ally, ty, y = (numpy.asarray(self._part(part)) for part in ("ally", "ty", "y"))
        tests = self._tests()
        hot = _placed(ally, ty, tests)
        labels = numpy.where(hot.sum(axis=1) > 0, hot.argmax(axis=1), -1)
        names = CLASSES.get(self._set, tuple(str(number) for number in range(hot.shape[1])))
        if len(names) != hot.shape[1]:
            raise MmllmError(f"{self.path}: {hot.shape[1]} classes, but {self._set} has {len(names)}.")
        # the public split: after the training nodes 500 for validation, fewer in a smaller set
        n_valid = min(500, len(ally) - len(y))
        splits = {
            "train": numpy.arange(len(y)),
            "valid": numpy.arange(len(y), len(y) + n_valid),
            "test": numpy.sort(tests),
        }
        return Labelled(labels, names, splits)

    def write(self, folder: Path) -> None:
        """``edges.npy`` and ``states.safetensors``."""
        states = _placed(self._part("allx").dense(), self._part("tx").dense(), self._tests())
        graph = self._part("graph")
        if not isinstance(graph, dict):
            raise MmllmError(f"{self.path}/ind.{self._set}.graph holds no dictionary of neighbours.")
        pairs = [(int(node), int(other)) for node, others in graph.items() for other in others]
        numpy.save(folder / "edges.npy", numpy.array(pairs, dtype=numpy.int64).reshape(-1, 2))
        save_file({"states": torch.from_numpy(states).float().contiguous()}, folder / "states.safetensors")

    def _part(self, part: str) -> Any:
        file = self.path / f"ind.{self._set}.{part}"
        try:
            with file.open("rb") as opened:
                # latin1: the files were pickled by Python 2, and numpy asks for this encoding of its byte strings
                found = Restricted(opened, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise MmllmError(f"{file} cannot be read as a pickle of numbers ({error}).") from error
        kind = Sparse if part in ("tx", "allx") else dict if part == "graph" else numpy.ndarray
        if not isinstance(found, kind):
            raise MmllmError(f"{file} holds a {type(found).__name__}, not what Planetoid has there.")
        return found

    def _tests(self) -> numpy.ndarray:
        file = self.files[-1]
        try:
            return numpy.array([int(line) for line in file.read_text().split()], dtype=numpy.int64)
        except ValueError as error:
            raise MmllmError(f"{file} is not a list of node numbers ({error}).") from error


class Sparse:
    """State of a pickled scipy matrix, taken as data: none of scipy's own unpickling runs."""

    def dense(self) -> numpy.ndarray:
        """float32[rows, cols]."""
        from scipy.sparse import csr_matrix

        found = vars(self)
        try:
            # scipy wrote its shape under either name
            shape = found["_shape"] if "_shape" in found else found["shape"]
            matrix = csr_matrix((found["data"], found["indices"], found["indptr"]), shape=shape)
        except (KeyError, ValueError, TypeError) as error:
            raise MmllmError(f"a sparse matrix of Planetoid's files is damaged ({error}).") from error
        return numpy.asarray(matrix.todense(), dtype=numpy.float32)


class Restricted(pickle.Unpickler):
    """Lets in arrays, sparse matrices and dictionaries of lists, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that Planetoid's pickles need; UnpicklingError for any other."""
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            # private in numpy (read in 2.4), but what pickled arrays name; it only makes an empty array
            return numpy._core.multiarray._reconstruct  # type: ignore[attr-defined]
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): numpy.ndarray,
            ("numpy", "dtype"): numpy.dtype,
            ("scipy.sparse.csr", "csr_matrix"): Sparse,
            ("scipy.sparse._csr", "csr_matrix"): Sparse,
            ("collections", "defaultdict"): defaultdict,
            ("__builtin__", "list"): list,
            ("builtins", "list"): list,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not let in")
        return known[module, name]


def _placed(first: numpy.ndarray, tests: numpy.ndarray, numbers: numpy.ndarray) -> numpy.ndarray:
    """[nodes, W]: the rows of ``first``, then those of ``tests`` at their node numbers; zero where there is none."""
    if len(tests) != len(numbers) or first.ndim != 2 or tests.ndim != 2 or first.shape[1] != tests.shape[1]:
        raise MmllmError(
            f"Planetoid's files do not fit: {first.shape} and {tests.shape} for {len(numbers)} test nodes."
        )
    rows = numpy.zeros((max(len(first), int(numbers.max(initial=-1)) + 1), first.shape[1]), dtype=numpy.float32)
    rows[: len(first)] = first
    rows[numbers] = tests
    return rows
