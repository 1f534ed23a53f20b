"""Opens what an item of graphs names, and keeps folders open; between ``graph`` and ``graph_files``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmllm.errors import MediaError
from mmllm.processors.content import Content, of_file
from mmllm.processors.graph_files import (
    EDGES,
    FOLDERS_FILE,
    MAX_BYTES,
    Graph,
    graph_of_folder,
    graph_of_json,
    split_node,
)


class GraphStore:
    """Graphs of files and folders; JSON graphs with more than ``most_nodes`` or ``most_edges`` are refused unbuilt."""

    def __init__(self, most_nodes: int, most_edges: int) -> None:
        self._most = (most_nodes, most_edges)
        self._folders: dict[tuple[Any, ...], Graph] = {}

    def __reduce__(self) -> tuple[type[GraphStore], tuple[int, int]]:
        """Leave its graphs behind: a process opens its own."""
        return GraphStore, self._most

    def open(self, media: str | Path | bytes, complete: Callable[[Path, Graph], Graph]) -> tuple[Graph, int | None]:
        """The graph of an item and the node it is about; ``complete`` finishes that of a folder, once.

        Raises ``MediaError``: it cannot be read, has no nodes or not the one named.
        """
        if isinstance(media, bytes):
            graph, node = graph_of_json(media, f"graph of {len(media)} bytes", *self._most), None
        elif isinstance(media, str | Path):
            path, node = split_node(media)
            graph = self._of_path(path, complete)
        else:
            raise MediaError(f"a graph is a path or bytes, not {type(media).__name__}.")
        node = graph.target if node is None else node
        if not graph.n_nodes:
            raise MediaError(f"{graph.where} has no nodes.")
        if node is not None and not 0 <= node < graph.n_nodes:
            raise MediaError(f"{graph.where} has no node {node}; its nodes are 0..{graph.n_nodes - 1}.")
        return graph, node

    def _of_path(self, path: Path, complete: Callable[[Path, Graph], Graph]) -> Graph:
        path = folder_of(path)
        if path.is_file():
            if path.stat().st_size > MAX_BYTES:
                raise MediaError(f"graph {path} is over {MAX_BYTES} bytes; larger graphs are folders.")
            return graph_of_json(path.read_bytes(), f"graph {path}", *self._most)
        if not path.is_dir():
            raise MediaError(f"graph {path} does not exist.")
        # a folder that was changed is read anew
        stats = ((file.name, file.stat()) for file in sorted(path.iterdir()))
        key = (path, *((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats))
        if key not in self._folders:
            self._folders[key] = complete(path, graph_of_folder(path))
        return self._folders[key]


def folder_of(path: Path) -> Path:
    """The folder that a path names by its ``graph.json``; any other path as it is."""
    inner = path.name == FOLDERS_FILE and any((path.parent / name).is_file() for name in EDGES)
    return path.parent if inner else path


def content_of(media: Any) -> Content | None:
    """Files that a graph is read from, and the node it is about; None of what is no graph."""
    if not isinstance(media, str | Path):
        return of_file(media)
    path, node = split_node(media)
    path, words = folder_of(path), "" if node is None else f"#{node}"
    if not path.is_dir():
        return of_file(path, words)
    files = tuple(sorted(file for file in path.iterdir() if file.is_file()))
    return Content(files, words=f"{words} {[file.name for file in files]}")
