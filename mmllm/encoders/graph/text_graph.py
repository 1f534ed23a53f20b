"""The ``text_graph`` encoder: a graph whose nodes have texts or states, whole or around the node it is about."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.encoders.graph.text_model import TextModel
from mmllm.errors import MmllmError
from mmllm.processors.graph import GraphProcessor
from mmllm.types import Features


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

    processor: GraphProcessor
    gives_final = True

    def __init__(
        self,
        *,
        model: str | None = None,
        width: int | None = None,
        layers: Sequence[int | Literal["final"]] = (-1,),
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
        _check_sizes(fanout, max_nodes, sample)
        self.text = None if model is None else TextModel(model, pool, max_tokens, cut)
        self.dim = self.text.dim if self.text is not None else int(width or 0)
        resolved = self.resolve(self.n_blocks)
        if self.text is None and (len(self.layers) > 1 or "final" in self.layers):
            raise MmllmError(f"layers: {list(self.layers)}, but given states are of one layer; leave the word out.")
        self.processor = GraphProcessor(
            texts=None if self.text is None else self.text.texts,
            digest="" if self.text is None else self.text.digest,
            dim=self.dim,
            layers=resolved,
            fanout=fanout,
            max_nodes=max_nodes,
            max_edges=max_edges,
            sample=sample,
            seed=seed,
        )
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Blocks of the text model; 0 where states are given."""
        return 0 if self.text is None else self.text.n_blocks

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
        sizes = tuple((size,) for size in mask.sum(dim=1).tolist())
        extras = {name: inputs[name] for name in ("edges", "target", "nodes")}
        return Features(layers, mask, (nodes.shape[1],), None if len(set(sizes)) == 1 else sizes, extras)

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


def _check_sizes(fanout: Sequence[int], max_nodes: int, sample: int | None) -> None:
    """Raise MmllmError for numbers of nodes that cannot be."""
    if not fanout or min(fanout) < 1:
        raise MmllmError(f"fanout: {list(fanout)} must hold a number of at least 1 for each hop.")
    most = 1 + sum(prod(fanout[:hop]) for hop in range(1, len(fanout) + 1))
    if most > max_nodes or (sample is not None and not 0 < sample <= max_nodes):
        raise MmllmError(
            f"max_nodes {max_nodes}: fanout {list(fanout)} may give {most}, sample ({sample}) must be in it."
        )
