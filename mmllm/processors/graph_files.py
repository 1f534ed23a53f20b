"""A graph from JSON (a file, bytes) or from a folder, checked before anything is built; called by ``graph_store``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmllm.errors import MediaError
from mmllm.processors.graph_links import Links

MAX_BYTES = 16 * 2**20
"""Largest JSON graph that is read, known before it is parsed: Python's objects of it take about seven times as much."""
FORM = 'a graph is {"nodes": ["text", ...], "edges": [[0, 1], ...]}'
EDGES = ("edges.npy", "edges.npz")
FOLDERS_FILE = "graph.json"
"""Says whether a folder's edges have a direction; as a path it stands for the folder."""
GIVEN = "states.safetensors"
"""A folder's own node states; what a text model made is in files of :mod:`mmllm.encoders.graph.states`."""


@dataclass(frozen=True)
class Graph:
    """A graph as it was given: what its nodes say, and who receives from whom."""

    where: str
    """Name of it in errors."""
    links: Links
    texts: Sequence[str] | None
    """One per node; None where only states are known."""
    states: Tensor | None = None
    """float[nodes, W] on the CPU, given with the graph; None: to be made from the texts."""
    target: int | None = None
    """The node that the graph is about, where it says so itself."""

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.links.n_nodes


def split_node(media: str | Path) -> tuple[Path, int | None]:
    """``cora#17`` -> (cora, 17); without ``#`` and digits at its end, or where such a file exists, no node."""
    name, mark, number = str(media).rpartition("#")
    if not mark or not number.isdecimal() or Path(media).exists():
        return Path(media), None
    return Path(name), int(number)


def graph_of_json(content: bytes, where: str, most_nodes: int, most_edges: int) -> Graph:
    """Our JSON form: ``nodes`` (texts or ``{"text": ...}``), ``edges`` (pairs from 0), ``directed``, ``target``.

    Raises ``MediaError`` for anything else, and for more than ``most_nodes`` or ``most_edges``.
    """
    if len(content) > MAX_BYTES:
        raise MediaError(f"{where} has {len(content)} bytes; at most {MAX_BYTES} are read, larger graphs are folders.")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{where} is not JSON ({error}); {FORM}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("nodes"), list):
        raise MediaError(f"{where} has no list of nodes; {FORM}.")
    nodes, edges, directed = found["nodes"], found.get("edges", []), found.get("directed", False)
    if not isinstance(edges, list) or not isinstance(directed, bool):
        raise MediaError(f"{where}: edges must be a list and directed true or false; {FORM}.")
    for what, count, most in (("nodes", len(nodes), most_nodes), ("edges", len(edges), most_edges)):
        if count > most:
            raise MediaError(f"{where} has {count} {what}; at most {most} are read.")
    texts = [_text(node, where, number) for number, node in enumerate(nodes)]
    pairs = numpy.array([_pair(edge, len(nodes), where) for edge in edges], dtype=numpy.int64).reshape(-1, 2)
    target = found.get("target")
    if target is not None and not isinstance(target, int):
        raise MediaError(f"{where}: target is {target!r}; it is the number of a node, from 0.")
    return Graph(where, Links(pairs, len(nodes), directed), texts, None, target)


def graph_of_folder(folder: Path) -> Graph:
    """A folder: ``edges.npy`` (or ``edges.npz`` with ``edges``) int[E, 2], and ``texts.jsonl`` or states, or both.

    ``texts.jsonl`` has a text or ``{"text": ...}`` a line, ``states.safetensors`` a tensor ``states`` float[nodes, W].
    ``graph.json``, which as a path stands for the folder, may say ``{"directed": true}``. Raises ``MediaError`` where
    they do not fit each other.
    """
    where = f"graph folder {folder}"
    texts = _texts(folder / "texts.jsonl", where) if (folder / "texts.jsonl").is_file() else None
    states = states_of(folder / GIVEN) if (folder / GIVEN).is_file() else None
    if texts is None and states is None:
        raise MediaError(f"{where} has neither texts.jsonl nor {GIVEN}, so nothing is known of its nodes.")
    if texts is not None and states is not None and len(texts) != len(states):
        raise MediaError(f"{where} has {len(texts)} texts but {len(states)} states.")
    n_nodes = len(texts) if texts is not None else len(states) if states is not None else 0
    pairs = _edges(folder, where)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise MediaError(f"{where}: edges are {pairs.dtype}{list(pairs.shape)}; they must be whole numbers [E, 2].")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n_nodes):
        wrong = pairs[((pairs < 0) | (pairs >= n_nodes)).any(axis=1)][0].tolist()
        raise MediaError(f"{where}: edge {wrong} names a node that is not there; its nodes are 0..{n_nodes - 1}.")
    return Graph(where, Links(pairs.astype(numpy.int64), n_nodes, _directed(folder, where)), texts, states)


def states_of(file: Path) -> Tensor:
    """The tensor ``states`` float[nodes, W] of a file, mapped into memory, not read. ``MediaError`` if damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            states: Tensor = opened.get_tensor("states")
    except (OSError, SafetensorError) as error:
        raise MediaError(f"{file} holds no tensor called states ({error}).") from error
    if states.dim() != 2 or not states.is_floating_point():
        raise MediaError(f"{file}: states are {states.dtype}{list(states.shape)}; they must be floats [nodes, width].")
    return states


def _text(node: Any, where: str, number: int) -> str:
    text = node.get("text") if isinstance(node, dict) else node
    if not isinstance(text, str):
        raise MediaError(f'{where}: node {number} is {str(node)[:60]!r}; a node is a text or {{"text": ...}}.')
    return text


def _pair(edge: Any, n_nodes: int, where: str) -> tuple[int, int]:
    match edge:
        case [int(one), int(other)] if not isinstance(one, bool) and not isinstance(other, bool):
            if 0 <= one < n_nodes and 0 <= other < n_nodes:
                return one, other
            raise MediaError(f"{where}: edge {edge} names a node that is not there; its nodes are 0..{n_nodes - 1}.")
    raise MediaError(f"{where}: edge {str(edge)[:60]} is not a pair of node numbers.")


def _texts(file: Path, where: str) -> list[str]:
    try:
        # not splitlines: JSON texts may hold other line ends, such as U+2028
        lines = file.read_text(encoding="utf-8").split("\n")
        return [_text(json.loads(line), where, number) for number, line in enumerate(lines) if line.strip()]
    except ValueError as error:
        raise MediaError(f"{file} has a line that is not JSON ({error}).") from error


def _edges(folder: Path, where: str) -> numpy.ndarray:
    for name in EDGES:
        if (folder / name).is_file():
            try:
                # a pickle inside could run anything
                found = numpy.load(folder / name, allow_pickle=False)
                return numpy.asarray(found if name == "edges.npy" else found["edges"])
            except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
                raise MediaError(f"{where}: {name} cannot be read ({error}).") from error
    raise MediaError(f"{where} has no edges.npy (whole numbers [E, 2]) and no edges.npz with edges.")


def _directed(folder: Path, where: str) -> bool:
    file = folder / FOLDERS_FILE
    if not file.is_file():
        return False
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MediaError(f"{file} is not JSON ({error}).") from error
    if not isinstance(found, dict) or not isinstance(found.get("directed", False), bool):
        raise MediaError(f'{where}: graph.json must be {{"directed": true}} or {{"directed": false}}.')
    return bool(found.get("directed", False))
