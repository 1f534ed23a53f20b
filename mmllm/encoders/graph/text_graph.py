"""The ``text_graph`` encoder: a graph whose nodes have texts or states, whole or around the node it is about."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.encoders.base import Encoder
from mmllm.encoders.graph.states import PAD, TextModel, states_file, states_of_texts, write_tiny_model
from mmllm.errors import MediaError, MmllmError
from mmllm.processors.graph_files import Graph
from mmllm.processors.graph_store import GraphStore
from mmllm.types import Features

LOG = logging.getLogger(__name__)


class TextGraphEncoder(Encoder):
    """Frozen states of a graph's nodes; the connector learns what they say to each other.

    A media item is a JSON graph (path or bytes) or a folder (:mod:`mmllm.processors.graph_files`). A path may end in
    ``#17``, and JSON may say ``"target": 17``: the node it is about. Then the item is the part of the graph around
    that node, the node itself first: of each node's neighbours at most ``fanout[hop]``, drawn by ``seed`` and node, so
    always the same ones. Without such a node it is the whole graph; more than ``max_nodes`` are an error, or with
    ``sample`` that many drawn nodes, which is logged.

    Features: ``grid`` (nodes,); ``extras``: ``edges`` int64[N, 2, E] (sender, receiver), -1 behind the last; both
    directions where the graph has none, duplicates and self loops left out; ``target`` int64[N], -1 for none;
    ``nodes`` int64[N, T], which nodes of the graph these are, -1 at padding.
    """

    modality = "graph"

    def __init__(
        self,
        *,
        model: str | None = None,
        width: int | None = None,
        layers: Sequence[int] = (-1,),
        pool: Literal["last", "mean"] = "last",
        max_tokens: int = 256,
        cut: bool = False,
        fanout: Sequence[int] = (10, 10),
        max_nodes: int = 512,
        max_edges: int = 100_000,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        """Load the text model, if there is one.

        Args:
            model: text model (hub id or folder) that makes a node's state of its text; None: states come with the
                graph, as the folder's states.safetensors.
            width: of those states.
            layers: of the text model, see ``Encoder``.
            pool: state of the last token (causal LM) or mean over the tokens (text encoder).
            max_tokens: longest text of a node; a longer one is an error unless ``cut``.
            cut: keep the first ``max_tokens`` of a longer text.
            fanout: for each hop from the node that an item is about, the most neighbours of each node.
            max_nodes: of an item.
            max_edges: of a JSON graph as written, and of an item.
            sample: nodes drawn of a whole graph with more than ``max_nodes``; None: that is an error.
            seed: what drawing depends on, beside the node.
        """
        super().__init__(layers=layers)
        if (model is None) == (width is None):
            raise MmllmError("text_graph needs either model (states are made from texts) or width (of given states).")
        if not fanout or min(fanout) < 1:
            raise MmllmError(f"fanout: {list(fanout)} must hold a number of at least 1 for each hop.")
        most = 1 + sum(prod(fanout[:hop]) for hop in range(1, len(fanout) + 1))
        if most > max_nodes or (sample is not None and not 0 < sample <= max_nodes):
            raise MmllmError(
                f"max_nodes {max_nodes}: fanout {list(fanout)} may give {most}, sample ({sample}) must be in it."
            )
        self.text = None if model is None else TextModel(model, pool, max_tokens, cut)
        self.dim = self.text.dim if self.text is not None else int(width or 0)
        self.fanout, self.seed, self.sample = tuple(fanout), seed, sample
        self.max_nodes, self.max_edges = max_nodes, max_edges
        self._store = GraphStore(max(max_nodes, 10_000), max_edges)  # more are read than an item may have
        self.resolve(self.n_blocks)
        if self.text is None and len(self.layers) > 1:
            raise MmllmError(f"layers: {list(self.layers)}, but given states are of one layer.")
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Blocks of the text model; 0 where states are given."""
        return 0 if self.text is None else self.text.n_blocks

    def open(self, media: str | Path | bytes) -> tuple[Graph, int | None]:
        """The graph of an item and the node it is about; ``MediaError`` where it cannot be read or there is none."""
        return self._store.open(media, self._with_states)

    def measure(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """Which nodes the item has: ``nodes`` int64[n]; the node it is about comes first, as 0 in ``target``."""
        return self._part(*self.open(media))

    def read(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """As ``measure``, with ``edges`` int64[2, E] and either ``states`` float[n, W] or tokens ``ids`` int64[n, L].

        The other one is empty: float[n, 0], int64[n, 0]. Raises ``MediaError``.
        """
        graph, node = self.open(media)
        part = self._part(graph, node)
        edges = graph.links.among(part["nodes"].numpy())
        if edges.shape[1] > 2 * self.max_edges:
            raise MediaError(f"{graph.where}: the item has {edges.shape[1]} edges; at most {2 * self.max_edges}.")
        nodes = part["nodes"]
        states, ids = torch.zeros(len(nodes), 0), torch.zeros(len(nodes), 0, dtype=torch.int64)
        if graph.states is not None:
            states = graph.states[nodes].float()
            if not states.isfinite().all():
                raise MediaError(f"{graph.where}: states of its nodes are not finite numbers.")
        elif self.text is not None and graph.texts is not None:
            ids = self.text.tokens([graph.texts[number] for number in nodes.tolist()], graph.where)
        return {**part, "edges": torch.from_numpy(edges), "states": states, "ids": ids}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(nodes,)."""
        return (len(inputs["nodes"]),)

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
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

    def forward(self, **inputs: Tensor) -> Features:
        """Collated inputs -> float[N, most nodes, D] for each layer, each item's own nodes first."""
        nodes, given = inputs["nodes"], inputs["given"]
        mask = nodes >= 0
        wide = inputs["states"]
        if self.text is not None:
            with torch.set_grad_enabled(self.learns()):
                wide = self._with_made(self.text, wide, inputs["ids"], (given[:, None] & mask)[mask])
        states = wide.new_zeros(*mask.shape, wide.shape[1]).masked_scatter(mask[..., None], wide)
        layers = dict(zip(self.layers, states.split(self.dim, dim=-1), strict=True))
        sizes = tuple((int(size),) for size in mask.sum(dim=1))
        extras = {name: inputs[name] for name in ("edges", "target", "nodes")}
        return Features(layers, mask, (nodes.shape[1],), None if len(set(sizes)) == 1 else sizes, extras)

    def dummy(self) -> dict[str, Tensor]:
        """A graph of one node without text, or of state zero."""
        one = torch.zeros(1, dtype=torch.int64)
        state = torch.zeros(1, self.dim if self.text is None else 0)
        ids = torch.zeros(1, 0 if self.text is None else 1, dtype=torch.int64)
        return {
            "nodes": one, "target": one[0], "edges": torch.zeros(2, 0, dtype=torch.int64), "states": state, "ids": ids
        }  # fmt: skip

    def _with_made(self, text: TextModel, given: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """States of all nodes, float[nodes, W]: those made from ``ids`` between the given ones (``mask``)."""
        if len(given) and text.learned():
            raise MmllmError(
                "text_graph: this stage or run has trained the text model, but states of a folder are of the untrained "
                "one; delete the folder's states-*.safetensors."
            )
        weights = list(text.parameters())
        empty = not len(ids)
        if empty and not any(hasattr(weight, "ds_id") for weight in weights):
            return given.to(weights[0].dtype)
        # under ZeRO-3 all ranks call the model together, also one that has only states
        made = torch.cat(text(ids.new_zeros(1, 1) if empty else ids, self.resolve(text.n_blocks)), dim=-1)
        rows = made.new_zeros(len(mask), made.shape[1]).masked_scatter(mask[:, None], given.to(made.dtype))
        return rows + made.sum() * 0 if empty else rows.masked_scatter(~mask[:, None], made)

    def _with_states(self, folder: Path, graph: Graph) -> Graph:
        """The graph of a folder with the states this encoder works on, if they are there."""
        if self.text is None:
            if graph.states is None or graph.states.shape[1] != self.dim:
                found = "no states" if graph.states is None else f"states of width {graph.states.shape[1]}"
                raise MediaError(f"{graph.where} has {found}, but this encoder takes given states of width {self.dim}.")
            return graph
        if graph.texts is None:
            raise MediaError(f"{graph.where} has no texts.jsonl for the text model; give width instead of model.")
        made = states_file(folder, self.text, self.resolve(self.n_blocks), graph.texts)
        return Graph(graph.where, graph.links, graph.texts, states_of_texts(made, len(graph.texts)), graph.target)

    def _part(self, graph: Graph, node: int | None) -> dict[str, Tensor]:
        if graph.states is None and (self.text is None or graph.texts is None):
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

    @classmethod
    def tiny(cls) -> TextGraphEncoder:
        """A random Llama of 3 blocks and width 16 over bytes, loaded from a folder."""
        with tempfile.TemporaryDirectory() as folder:
            write_tiny_model(folder)
            return cls(model=folder, layers=(-2,))

    def tiny_media(self) -> list[Any]:
        """A triangle, a chain seen from its end, and one node alone."""
        graphs: list[dict[str, Any]] = [
            {"nodes": ["tea", "milk", {"text": "bread"}], "edges": [[0, 1], [1, 2], [2, 0]]},
            {"nodes": ["red", "blue", "green", "gray"], "edges": [[0, 1], [1, 2], [2, 3]], "target": 3},
            {"nodes": ["a stone"], "edges": []},
        ]
        return [json.dumps(graph).encode() for graph in graphs]
