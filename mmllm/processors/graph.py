"""Graphs whose nodes have texts or states, whole or around the node they are about; their processor."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.errors import MediaError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content
from mmllm.processors.graph_files import Graph, states_of
from mmllm.processors.graph_store import GraphStore, content_of
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import Layer

LOG = logging.getLogger(__name__)
PAD = -1
"""Stands behind the tokens of a shorter text; no token's number."""


class NodeTexts:
    """Texts of nodes as tokens of a text model."""

    def __init__(self, tokenizer: ModelTokenizer, max_tokens: int, cut: bool) -> None:
        """``max_tokens`` of a text; of a longer one the first are kept if it may be ``cut``, else it is an error."""
        self.tokenizer = tokenizer
        self.max_tokens, self.cut = max_tokens, cut

    def tokens(self, texts: Sequence[str], where: str) -> Tensor:
        """int64[n, L], ``PAD`` behind shorter ones; ``MediaError`` for one over ``max_tokens`` unless it may be cut."""
        ids: list[list[int]] = self.tokenizer.loaded(list(texts))["input_ids"] if texts else []
        for number, one in enumerate(ids):
            if len(one) > self.max_tokens and not self.cut:
                raise MediaError(
                    f"{where}: the text of node {number} ({texts[number][:40]!r}) has {len(one)} tokens; at most "
                    f"{self.max_tokens} are read: raise max_tokens, or say `cut: true` to keep the first."
                )
        ids = [one[: self.max_tokens] for one in ids]
        longest = max(map(len, ids), default=0)
        rows = [one + [PAD] * (longest - len(one)) for one in ids]
        return torch.tensor(rows, dtype=torch.int64).view(len(ids), longest)


class GraphProcessor(Processor):
    """Items of a graph: its nodes, who receives from whom, and texts or states of the nodes.

    ``Graph``s of folders stay open in the process that reads them.
    """

    modality = "graph"

    def __init__(
        self,
        *,
        texts: NodeTexts | None,
        digest: str,
        dim: int,
        layers: Sequence[Layer],
        fanout: Sequence[int],
        max_nodes: int,
        max_edges: int,
        sample: int | None,
        seed: int,
    ) -> None:
        """Set up; the other arguments as ``TextGraphEncoder`` has them.

        Args:
            texts: of the text model that makes states; None: states come with the graph.
            digest: of that model, which says whose states in a folder are read.
            dim: width of a layer, or of the states that come with a graph.
            layers: of the text model, counted from the front.
        """
        self.texts, self.digest = texts, digest
        self.dim, self.layers = dim, tuple(layers)
        self.fanout, self.seed, self.sample = tuple(fanout), seed, sample
        self.max_nodes, self.max_edges = max_nodes, max_edges
        self._store = GraphStore(max(max_nodes, 10_000), max_edges)  # more are read than an item may have

    def open(self, media: str | Path | bytes) -> tuple[Graph, int | None]:
        """The graph of an item and the node it is about; ``MediaError`` where it cannot be read or there is none."""
        return self._store.open(media, self._with_states)

    def measure(self, media: str | Path | bytes) -> Item:
        """Find the item's nodes: ``nodes`` int64[n]; the node it is about comes first, as 0 in ``target``."""
        return self._part(*self.open(media))

    def read(self, media: str | Path | bytes) -> Item:
        """Read what ``measure`` gives, ``edges`` int64[2, E], and ``states`` float[n, W] or tokens ``ids`` int64[n, L].

        The other one is empty: float[n, 0], int64[n, 0]. Raises ``MediaError``.
        """
        graph, node = self.open(media)
        part = self._part(graph, node)
        edges = graph.links.among(part["nodes"].numpy())
        # an edge without direction goes both ways, and max_edges counts those that are written
        if edges.shape[1] > 2 * self.max_edges:
            raise MediaError(f"{graph.where}: the item has {edges.shape[1]} edges; at most {2 * self.max_edges}.")
        nodes = part["nodes"]
        states, ids = torch.zeros(len(nodes), 0), torch.zeros(len(nodes), 0, dtype=torch.int64)
        if graph.states is not None:
            states = graph.states[nodes].float()
            if not states.isfinite().all():
                raise MediaError(f"{graph.where}: states of its nodes are not finite numbers.")
        elif self.texts is not None and graph.texts is not None:
            ids = self.texts.tokens([graph.texts[number] for number in nodes.tolist()], graph.where)
        return {**part, "edges": torch.from_numpy(edges), "states": states, "ids": ids}

    def content(self, media: str | Path | bytes) -> Content | None:
        """The JSON or every file of the folder, states among them, and the node that is asked about."""
        return content_of(media)

    def grid(self, info: ItemInfo) -> tuple[int]:
        """(nodes,)."""
        return (len(info["nodes"]),)

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """``states`` float[given nodes, W] and ``ids`` int64[other nodes, L] one after the other; the rest padded."""
        written = [item["states"].shape[1] > 0 for item in items]
        given = [item["states"] for item, own in zip(items, written, strict=True) if own]
        made = [item["ids"] for item, own in zip(items, written, strict=True) if not own]
        longest = max((ids.shape[1] for ids in made), default=0)
        padded = [torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=PAD) for ids in made]
        edges = pad_sequence([item["edges"].T for item in items], batch_first=True, padding_value=-1)
        return {
            "nodes": pad_sequence([item["nodes"] for item in items], batch_first=True, padding_value=-1),
            "edges": edges.transpose(1, 2).contiguous(),
            "target": torch.stack([item["target"] for item in items]),
            "given": torch.tensor(written),
            "states": torch.cat(given) if given else torch.zeros(0, self.dim * len(self.layers)),
            "ids": torch.cat(padded) if padded else torch.zeros(0, 0, dtype=torch.int64),
        }

    def blank(self) -> Item:
        """A graph of one node without text, or of state zero."""
        one = torch.zeros(1, dtype=torch.int64)
        state = torch.zeros(1, self.dim if self.texts is None else 0)
        ids = torch.zeros(1, 0 if self.texts is None else 1, dtype=torch.int64)
        return {
            "nodes": one, "target": one[0], "edges": torch.zeros(2, 0, dtype=torch.int64), "states": state, "ids": ids
        }  # fmt: skip

    def _with_states(self, folder: Path, graph: Graph) -> Graph:
        """The graph of a folder with the states this encoder works on, if they are there."""
        if self.texts is None:
            if graph.states is None or graph.states.shape[1] != self.dim:
                found = "no states" if graph.states is None else f"states of width {graph.states.shape[1]}"
                raise MediaError(f"{graph.where} has {found}, but this encoder takes given states of width {self.dim}.")
            return graph
        if graph.texts is None:
            raise MediaError(f"{graph.where} has no texts.jsonl for the text model; give width instead of model.")
        made = states_file(folder, self.digest, self.layers, graph.texts)
        return Graph(graph.where, graph.links, graph.texts, states_of_texts(made, len(graph.texts)), graph.target)

    def _part(self, graph: Graph, node: int | None) -> Item:
        if graph.states is None and (self.texts is None or graph.texts is None):
            raise MediaError(f"{graph.where} has texts only, but this encoder has no text model; give it `model`.")
        if node is not None:
            nodes = graph.links.around(node, self.fanout, self.seed)
        elif graph.n_nodes <= self.max_nodes:
            nodes = numpy.arange(graph.n_nodes)
        elif self.sample is None:
            raise MediaError(
                f"{graph.where} has {graph.n_nodes} nodes, more than max_nodes ({self.max_nodes}); ask about one node "
                "(`#17` behind the path), raise max_nodes, or let `sample` draw some."
            )
        else:
            nodes = graph.links.drawn(self.sample, self.seed)
            LOG.warning("%s: %d of its %d nodes are drawn", graph.where, self.sample, graph.n_nodes)
        return {"nodes": torch.from_numpy(nodes), "target": torch.tensor(-1 if node is None else 0)}


def states_file(folder: Path, digest: str, layers: Sequence[Layer], texts: Sequence[str]) -> Path:
    """Path of the states of these texts by the model of this digest, whether it is there or not."""
    total = hashlib.sha256(json.dumps([digest, list(layers)]).encode())
    for text in texts:
        total.update(hashlib.sha256(text.encode()).digest())
    # 24 digits: a name that can be read, and still one that no other texts get
    return folder / f"states-{total.hexdigest()[:24]}.safetensors"


def states_of_texts(file: Path, n_nodes: int) -> Tensor | None:
    """States made before, float[nodes, W]; None where they were not made; ``MediaError`` if damaged."""
    if not file.is_file():
        return None
    states = states_of(file)
    if len(states) != n_nodes:
        raise MediaError(f"{file} has {len(states)} states for {n_nodes} texts; delete it and make it again.")
    return states
